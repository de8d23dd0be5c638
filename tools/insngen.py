#!/usr/bin/env python3
"""Turns core/x86/insn.tab into insn_gen.h (the op names) and insn_gen.c (forms,
decoding trees, operand recipes). The table's own head describes its columns.

usage: insngen.py insn.tab insn_gen.h insn_gen.c"""
import re
import sys

DIMS = ['MODE', 'PP', 'REG', 'MOD', 'RM', 'W', 'L', 'OPSIZE', 'REXB']
DIM_SIZE = {'MODE': 2, 'PP': 4, 'REG': 8, 'MOD': 2, 'RM': 8, 'W': 2, 'L': 4, 'OPSIZE': 3, 'REXB': 2}
PP = {'np': 0, '66': 1, 'f3': 2, 'f2': 3}
MAPS = {'0f': 1, '0f38': 2, '0f3a': 3, 'm5': 5, 'm6': 6}
SIZES = {'b': 1, 'w': 2, 'd': 4, 'q': 8, 't': 10, 'dq': 16, 'qq': 32, 'oq': 64, '0': 0}
SIZES = {k: 'SZ_%s' % v for k, v in SIZES.items()}
SIZES.update((k, 'SZ_' + k.upper()) for k in ('v', 'z', 'y', 'r', '2v', 'p', 's', 'a', 'x', 'xh', 'xf',
                                             'xe', 'env', 'save', 'dup'))
# letter: (method, memory allowed)
METHODS = {'E': 'RM_GPR', 'M': 'RM_GPR', 'R': 'RM_GPR', 'G': 'REG_GPR', 'B': 'VVVV_GPR',
           'Z': 'OPCODE_GPR', 'P': 'REG_MMX', 'Q': 'RM_MMX', 'N': 'RM_MMX',
           'V': 'REG_VEC', 'W': 'RM_VEC', 'U': 'RM_VEC', 'H': 'VVVV_VEC', 'L': 'IS4_VEC',
           'Kg': 'REG_MASK', 'Ke': 'RM_MASK', 'Kr': 'RM_MASK', 'Km': 'RM_MASK', 'Kh': 'VVVV_MASK',
           'S': 'REG_SEG', 'C': 'REG_CR', 'D': 'REG_DR'}
MEM_ONLY = {'M', 'Km'}
REG_ONLY = {'R', 'N', 'U', 'Kr'}
FIXED = {'AL': (0, 'b'), 'CL': (1, 'b'), 'AX': (0, 'w'), 'DX': (2, 'w'), 'rAX': (0, 'v'),
         'eAX': (0, 'z')}
SEGS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS']
IMMS = {'Ib': ('IMM8', 'b'), 'Ibs': ('IMM8S', 'v'), 'Iw': ('IMM16', 'w'), 'Iz': ('IMMZ', 'v'),
        'Iv': ('IMMV', 'v'), 'I2b': ('IMM8_2', 'b'), 'Jb': ('REL8', 'v'), 'Jz': ('RELZ', 'v'),
        'Ap': ('FAR', 'p')}
FLAG_BITS = {'c': 0, 'p': 2, 'a': 4, 'z': 6, 's': 7, 't': 8, 'i': 9, 'd': 10, 'o': 11, 'l': (12, 13),
             'n': 14}
ATTRS = {'lock': 'LOCK', 'priv': 'PRIV', 'align': 'ALIGN', 'nomem': 'NOMEM_FAULT', 'ends': 'ENDS',
         'undoc': 'UNDOC', 'vsib': 'VSIB', 'stack': 'STACK', 'native': 'NATIVE', 'rep': 'REP',
         'd64': 'D64'}
DECS = {'o8': 'O8', 'oz': 'OZ', 'd64': 'D64', 'f64': 'F64', 'nomod': 'NOMOD', 'k': 'K', 'z': 'Z',
        'kreq': 'KREQ', 'er': 'ER', 'sae': 'SAE', 'distinct': 'DISTINCT'}
NATIVE_CLASSES = {'INT', 'STRING', 'X87', 'MMX', 'SSE', 'AVX', 'AVX512'}


class Form:
    pass


def fail(where, text):
    sys.exit('insn.tab:%s: %s' % (where, text))


def parse_operand(text, where):
    """One operand: (method, access, rsize, msize or argument, constraint on mod)."""
    name, _, access = text.partition(':')
    acc = {'': 1, 'r': 1, 'w': 2, 'rw': 3, 'n': 0}.get(access)
    if acc is None:
        fail(where, 'access of ' + text)
    if name == '1':
        return ('ONE', acc, 'SZ_1', 0, None)
    if name in FIXED:
        reg, size = FIXED[name]
        return ('FIXED_GPR', acc, SIZES[size], reg, None)
    if name in SEGS:
        return ('FIXED_SEG', acc, 'SZ_2', SEGS.index(name), None)
    if name == 'X0':
        return ('FIXED_VEC', acc, 'SZ_16', 0, None)
    if name == 'ST0':
        return ('ST0', acc, 'SZ_10', 0, None)
    if name == 'STi':
        return ('ST', acc, 'SZ_10', 0, 'reg')
    if name in IMMS:
        return (IMMS[name][0], acc, SIZES[IMMS[name][1]], 0, None)
    if name[0] == 'O' and name[1:] in SIZES:
        return ('MOFFS', acc, SIZES[name[1:]], SIZES[name[1:]], None)
    m = re.fullmatch(r'T(\w+)\.(\w+)', name)
    if m:
        return ('VSIB', acc, SIZES[m[2]], SIZES[m[1]], 'mem')
    m = re.fullmatch(r'(K[gerhm]|[A-Z])(\w+?)(?:/(\w+))?', name)
    if not m or m[1] not in METHODS or m[2] not in SIZES or (m[3] or 'b') not in SIZES:
        fail(where, 'operand ' + text)
    mod = 'mem' if m[1] in MEM_ONLY else 'reg' if m[1] in REG_ONLY else None
    return (METHODS[m[1]], acc, SIZES[m[2]], SIZES[m[3] or m[2]], mod)


def parse_flags(text, where):
    masks = {'r': 0, 'w': 0, 'u': 0}
    for part in text.split():
        if part == '-':
            continue
        kind, _, letters = part.replace('=', ':').partition(':')
        for c in letters:
            bits = FLAG_BITS[c]
            for b in bits if isinstance(bits, tuple) else (bits,):
                masks[kind] |= 1 << b
    return masks['r'], masks['w'] | masks['u'], masks['u']


class Table:
    def __init__(self):
        self.forms = []
        self.cls = 'INT'
        self.feature = '-'

    def add(self, where, name, enc, opnds, flags, feature, attrs):
        f = Form()
        f.where, f.cls = where, self.cls
        f.attr, f.dec, f.limits = set(), set(), {}
        f.bcast = f.disp8_n = 0
        f.text, f.op = name.lower(), name
        f.feature = None if feature in ('-', '') else feature
        f.flags = parse_flags(flags, where)
        f.ops = [parse_operand(o, where) for o in opnds.split() if o != '-']
        if len(f.ops) > 4:
            fail(where, 'too many operands')
        vex = self.encoding(f, enc)
        native = f.cls in NATIVE_CLASSES
        for a in attrs.split():
            key, _, val = a.partition('=')
            if key == '-':
                continue
            if key == 'name':
                f.text = val
            elif key == 'class':
                f.cls = val
                native = val in NATIVE_CLASSES
            elif key == 'n':
                f.disp8_n = int(val)
            elif key in ('b2', 'b4', 'b8'):
                f.bcast = int(key[1])
            elif key == 'nn':
                native = False
            elif key in ATTRS or key in DECS:
                if key in ATTRS:
                    f.attr.add(ATTRS[key])
                if key in DECS:
                    f.dec.add(DECS[key])
            else:
                fail(where, 'attribute ' + a)
        if native:
            f.attr.add('NATIVE')
        for at, acc, rsize, msize, mod in f.ops:
            if at.startswith(('RM_', 'REG_', 'VSIB')) or at == 'ST':
                f.dec.add('MODRM')
            if at.startswith('VVVV'):
                f.dec.add('VVVV')
            if at == 'VSIB':
                f.attr.add('VSIB')
            if mod and 'NOMOD' not in f.dec:
                f.limits.setdefault('MOD', {1 if mod == 'reg' else 0})
        if f.limits.get('PP', set()) & {2, 3} and not f.limits['PP'] & {0, 1}:
            f.dec.add('REPOP')
        if not vex and f.ops and f.ops[0][2] == 'SZ_1' and f.ops[0][0].endswith('GPR'):
            f.dec.add('O8')
        if 'L' not in f.limits and vex:
            f.dec.add('LIG')
        self.forms.append(f)

    def encoding(self, f, enc):
        """Fills in map, opcodes and limits; returns whether it is VEX or EVEX."""
        f.map, opcode, low, f.space = 0, None, None, 0
        toks = enc.split()
        lim = f.limits
        if toks[0].startswith(('vex.', 'evex.')):
            parts = toks.pop(0).split('.')
            f.space = 3 if parts[0] == 'vex' else 6
            for p in parts[1:]:
                if p in PP:
                    lim['PP'] = {PP[p]}
                elif p in MAPS:
                    f.map = MAPS[p]
                elif p in ('w0', 'w1'):
                    lim['W'] = {int(p[1])}
                elif p in ('lig', 'wig'):
                    pass
                elif p in ('128', '256', '512'):
                    lim.setdefault('L', set()).add({'128': 0, '256': 1, '512': 2}[p])
                elif p == 'x':
                    lim['L'] = {0, 1} if f.space == 3 else {0, 1, 2}
                else:
                    fail(f.where, 'encoding part ' + p)
            if 'PP' not in lim or not f.map:
                fail(f.where, 'no prefix or map')
        for t in toks:
            if opcode is None:
                if t in ('np', '66', 'f3', 'f2') and not f.map:
                    lim.setdefault('PP', set()).add(PP[t])
                    continue
                if t == 'np66':
                    lim['PP'] = {0, 1}
                    continue
                if t in MAPS and not f.map:
                    f.map = MAPS[t]
                    continue
                m = re.fullmatch(r'([0-9a-f]{2})((?:\+\d+)*)(\+r|\+c)?', t)
                if not m:
                    fail(f.where, 'opcode ' + t)
                opcode = int(m[1], 16) + sum(int(n) for n in m[2].split('+') if n)
                low = m[3]
            elif t == '/r':
                f.dec.add('MODRM')
            elif re.fullmatch('/[0-7]', t):
                f.dec.add('MODRM')
                lim['REG'] = {int(t[1])}
            elif re.fullmatch('/[0-7]-[0-7]', t):
                f.dec.add('MODRM')
                lim['REG'] = set(range(int(t[1]), int(t[3]) + 1))
            elif t in ('mem', 'reg'):
                f.dec.add('MODRM')
                lim['MOD'] = {int(t == 'reg')}
            elif re.fullmatch('rm=[0-7]', t):
                lim['RM'] = {int(t[3])}
                lim['MOD'] = {1}
                f.dec.add('MODRM')
            elif t in ('i64', 'o64'):
                lim['MODE'] = {int(t == 'o64')}
            elif t in ('w0', 'w1'):
                lim['W'] = {int(t[1])}
            elif t in ('rexb0', 'rexb1'):
                lim['REXB'] = {int(t[4])}
            elif t in ('os16', 'os32', 'os64'):
                lim.setdefault('OPSIZE', set()).add({'os16': 0, 'os32': 1, 'os64': 2}[t])
            else:
                fail(f.where, 'encoding ' + t)
        if opcode is None:
            fail(f.where, 'no opcode')
        n = 8 if low == '+r' else 16 if low == '+c' else 1
        f.opcodes = range(opcode, opcode + n)
        if low == '+c':
            f.dec.add('COND')
        return f.space != 0

    def add_simd(self, where, name, enc, opnds, flags, spaces, attrs):
        """One row for up to four encodings of the same operation."""
        toks = enc.split()[1:]
        ew = [t[1:] for t in toks if t in ('ew0', 'ew1')]
        vw = [t[1:] for t in toks if t in ('vw0', 'vw1')]
        lens = [t for t in toks if t in ('128', '256', '512', 'lig', 'x')]
        toks = [t for t in toks if t not in ('ew0', 'ew1', 'vw0', 'vw1') and t not in lens]
        pp, mp, rest = toks[0], toks[1], toks[2:]
        w = [t for t in rest if t in ('w0', 'w1')]
        rest = ' '.join(t for t in rest if t not in w)
        only = {'sse': [], 'vex': [], 'evex': [], 'all': []}
        for a in attrs.split():
            head, _, tail = a.partition(':')
            only[head if tail else 'all'].append(tail or a)
        evex_attr = {'b2', 'b4', 'b8', 'er', 'sae', 'k', 'z', 'kz', 'nok', 'kreq', 'n'}
        common = [a for a in only['all'] if a.partition('=')[0] not in evex_attr]
        eattr = [a for a in only['all'] if a.partition('=')[0] in evex_attr]
        ops = opnds.split()
        has_h = any(o.startswith('H') for o in ops)
        dropped = [o for o in ops if not o.startswith('H')]
        if has_h:
            dropped[0] = dropped[0].split(':')[0] + ':rw'
        variable = any(re.search(r'[A-Z](?:\w*\.)?(x[hfe]?|dup)(/|:|$)', o) for o in ops)
        old_cls = self.cls
        for sp in spaces.split():
            kind, _, feats = sp.partition(':')
            if kind == 'mmx':
                o2 = [re.sub(r'^([VWU])(x|dq)', lambda m: {'V': 'Pq', 'W': 'Qq', 'U': 'Nq'}[m[1]], o)
                      for o in dropped]
                self.cls = 'MMX'
                self.add(where, name, 'np %s %s' % (mp, rest), ' '.join(o2), flags, feats,
                         ' '.join(common))
            elif kind == 'sse':
                o2 = [re.sub(r'^([A-Z])x(:|$)', r'\1dq\2', o) for o in dropped]
                sub = {'dup': 'q', 'xh': 'q', 'xf': 'd', 'xe': 'w'}
                o2 = [re.sub(r'^([VWU])(dup|x[hfe])', lambda m: m[1] + 'dq/' + sub[m[2]], o)
                      for o in o2]
                a2 = common + only['sse']
                mem = [o for o in o2 if re.match(r'[WM]dq(:|$)', o)]
                if mem and 'unaligned' not in a2:
                    a2.append('align')
                wl = [x for x in w if 'y' in opnds or 'wlegacy' in a2]
                self.cls = 'SSE'
                self.add(where, name, '%s %s %s %s' % (pp, mp, rest, ' '.join(wl)), ' '.join(o2),
                         flags, feats, ' '.join(a for a in a2 if a not in ('unaligned', 'wlegacy')))
            elif kind in ('vex', 'evex'):
                fl = feats.split(',')
                ww = w or (vw if kind == 'vex' else ew)
                if lens:
                    ls = [l for l in lens if l != '512' or kind == 'evex']
                    variants = [(ls, fl[0])]
                elif not variable:
                    variants = [(['lig'], fl[0])]
                elif kind == 'evex':
                    variants = [(['x'], fl[0])]
                elif len(fl) > 1:
                    variants = [(['128'], fl[0]), (['256'], fl[1])]
                else:
                    variants = [(['x'], fl[0])]
                for ls, feat in variants:
                    e = '.'.join([kind] + ls + [pp, mp] + ww)
                    a2 = common + only[kind]
                    if kind == 'evex':
                        a2 = a2 + eattr
                        a2 = evex_attrs(a2, ops)
                    self.cls = 'AVX512' if kind == 'evex' else 'AVX'
                    self.add(where, 'V' + name, e + ' ' + rest, opnds, flags, feat,
                             ' '.join(a for a in a2 if a not in ('unaligned', 'wlegacy')))
            else:
                fail(where, 'space ' + sp)
        self.cls = old_cls

    def line(self, where, text):
        if text.startswith('@class'):
            self.cls = text.split()[1]
            return
        if text.startswith('@feature'):
            self.feature = text.split()[1]
            return
        cols = [c.strip() for c in text.split('|')]
        if len(cols) < 3:
            fail(where, 'columns')
        cols += [''] * (6 - len(cols))
        name, enc, opnds, flags, feature, attrs = cols
        feature = feature or self.feature
        if enc.startswith('simd '):
            self.add_simd(where, name, enc, opnds, flags, feature, attrs)
            return
        if enc.startswith('evex.'):
            attrs = ' '.join(evex_attrs(attrs.split(), opnds.split()))
        self.add(where, name, enc, opnds, flags, feature, attrs)

    def read(self, path):
        block = None
        for where, raw in enumerate(open(path), 1):
            text = raw.split('#')[0].strip()
            if not text:
                continue
            if text.startswith('@each'):
                block = (text.split()[1:], [])
            elif text == '@end':
                for item in block[0]:
                    vals = item.split(':')
                    for w, t in block[1]:
                        # {0} {1} ...: the item's fields
                        t = re.sub(r'\{(\d)\}', lambda m: vals[int(m[1])].replace('_', ' '), t)
                        self.line(w, t)
                block = None
            elif block is not None:
                block[1].append((where, text))
            else:
                self.line(where, text)


def evex_attrs(attrs, ops):
    """Adds the usual masking: k and z into a vector register, k into memory or a mask."""
    out = []
    for a in attrs:
        if a == 'kz':
            out += ['k', 'z']
        elif a != 'nok':
            out.append(a)
    if not {'nok', 'k', 'kz', 'kreq'} & set(attrs) and ops and ops[0] != '-':
        dest = ops[0]
        if dest.startswith(('V', 'U', 'W', 'H')):
            out += ['k', 'z']  # decode.c refuses z on memory
        elif dest.startswith(('Kg', 'M')):
            out += ['k']
    if 'kreq' in attrs:
        out.append('k')
    return out


class Tree:
    def __init__(self, forms):
        self.words, self.seen, self.forms = [], {}, forms

    def build(self, ids, dims):
        if not ids:
            return 0
        for n, dim in enumerate(dims):
            if any(dim in self.forms[i].limits for i in ids):
                kids = []
                for v in range(DIM_SIZE[dim]):
                    sub = [i for i in ids if v in self.forms[i].limits.get(dim, range(99))]
                    kids.append(self.build(sub, dims[n + 1:]))
                if len(set(kids)) == 1:
                    return kids[0]
                key = (dim, tuple(kids))
                if key not in self.seen:
                    self.seen[key] = len(self.words)
                    self.words.append('DIM_' + dim)
                    self.words += kids
                return 0x8000 | self.seen[key]
        # Of several, the form with the most conditions is meant.
        ids = sorted(ids, key=lambda i: -len(self.forms[i].limits))
        if len(ids) > 1 and len(self.forms[ids[0]].limits) == len(self.forms[ids[1]].limits):
            fail('%s and %s' % (self.forms[ids[0]].where, self.forms[ids[1]].where), 'ambiguous')
        return ids[0]


def wrap(items, per):
    return ''.join('\t' + ', '.join(str(x) for x in items[i:i + per]) + ',\n'
                   for i in range(0, len(items), per))


def main():
    tab = Table()
    tab.read(sys.argv[1])
    forms = [None] + tab.forms
    ops = []
    for f in tab.forms:
        if f.op not in ops:
            ops.append(f.op)
    tree = Tree(forms)
    roots = []
    for m in range(14):
        by_opcode = [[] for _ in range(256)]
        for i, f in enumerate(forms):
            if f and f.space + f.map == m:
                for o in f.opcodes:
                    by_opcode[o].append(i)
        roots.append([tree.build(ids, DIMS) for ids in by_opcode])
    if len(tree.words) >= 0x8000:
        sys.exit('tree too large')

    specs, spec_at = [], {}

    def spec(f):
        key = tuple(o[:4] for o in f.ops)
        if key not in spec_at:
            spec_at[key] = len(specs)
            specs.extend(key)
        return spec_at[key]

    head = '/* Generated by tools/insngen.py from core/x86/insn.tab. */\n'
    with open(sys.argv[2], 'w') as h:
        h.write(head + '#ifndef CORE_X86_INSN_GEN_H\n#define CORE_X86_INSN_GEN_H\n\n')
        h.write('#define X86_FORM_COUNT %d\n\nenum x86_op {\n\tX86_OP_INVALID,\n' % len(forms))
        h.write(''.join('\tX86_OP_%s,\n' % o for o in ops))
        h.write('\tX86_OP_COUNT,\n};\n\n#endif\n')
    with open(sys.argv[3], 'w') as c:
        c.write(head + '#include "core/x86/decode_table.h"\n#include "core/x86/feature.h"\n\n')
        c.write('const struct x86_form x86_forms[X86_FORM_COUNT] = {\n')
        c.write('\t{.mnemonic = "(bad)"},\n')
        for f in tab.forms:
            attr = ' | '.join('X86_ATTR_' + a for a in sorted(f.attr)) or '0'
            feat = 'X86_FEAT_' + (f.feature or 'NONE')
            c.write('\t{"%s", X86_OP_%s, %s, X86_CLASS_%s, %s, 0x%x, 0x%x, 0x%x},\n'
                    % ((f.text, f.op, attr, f.cls, feat) + f.flags))
        c.write('};\n\nconst struct x86_dec x86_decs[X86_FORM_COUNT] = {\n\t{0},\n')
        for f in tab.forms:
            flags = sorted(f.dec | (f.attr & {'VSIB', 'LOCK'}))
            c.write('\t{%s, X86_OP_%s, %d, %d, %d, %d},\n'
                    % (' | '.join('DEC_' + d for d in flags) or '0', f.op, spec(f), len(f.ops),
                       f.bcast, f.disp8_n))
        c.write('};\n\nconst struct x86_opspec x86_opspecs[] = {\n\t{0},\n'.replace('\t{0},\n', ''))
        for at, acc, rsize, msize in specs:
            c.write('\t{AT_%s, %d, %s, %s},\n' % (at, acc, rsize, msize))
        c.write('};\n\nconst uint16_t x86_tree[] = {\n' + wrap(tree.words, 12) + '};\n\n')
        c.write('const uint16_t x86_root[X86_MAPS][256] = {\n')
        for r in roots:
            c.write('\t{\n' + wrap(r, 16) + '\t},\n')
        c.write('};\n')
    print('%d forms, %d ops, %d operand lists, %d tree words' %
          (len(tab.forms), len(ops), len(spec_at), len(tree.words)))


main()
