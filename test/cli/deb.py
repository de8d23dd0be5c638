#!/usr/bin/env python3
"""The Debian package: made twice the same, complete, without complaints of lintian; the program
in it runs. usage: deb.py JOIST"""
import os
import shutil
import subprocess
import sys
import tempfile

build = os.path.dirname(os.path.abspath(sys.argv[1]))


def main():
    print("1..3", flush=True)
    if not shutil.which("dpkg-shlibdeps"):
        for i, name in enumerate(("made", "lintian", "runs"), 1):
            print(f"ok {i} - {name} # SKIP no dpkg-dev here")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as d:
        debs = []
        for sub in ("a", "b"):
            os.mkdir(os.path.join(d, sub))
            subprocess.run(["packaging/mkdeb", build, os.path.join(d, sub)], check=True,
                           stdout=subprocess.DEVNULL, timeout=100)
            debs.append(os.path.join(d, sub, os.listdir(os.path.join(d, sub))[0]))
        same = open(debs[0], "rb").read() == open(debs[1], "rb").read()
        files = subprocess.run(["dpkg-deb", "-c", debs[0]], check=True, capture_output=True,
                               text=True).stdout
        missing = [x for x in ("usr/bin/joist", "man1/joist.1.gz", "man1/joist-image-build.1.gz",
                               "completions/joist", "systemd/user/joist@.service",
                               "doc/joist/copyright") if x not in files]
        good = same and not missing
        failed += not good
        print(("ok" if good else "not ok") + f" 1 - made twice the same, nothing missing {missing}")
        if not shutil.which("lintian"):
            print("ok 2 - lintian # SKIP no lintian here")
        else:
            # Only a package of a distribution has a maintainer to write to.
            p = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", "--suppress-tags",
                                "bogus-mail-host,bogus-mail-host-in-debian-changelog", debs[0]],
                               capture_output=True, text=True)
            failed += p.returncode != 0
            print(("ok" if p.returncode == 0 else "not ok") + " 2 - lintian has no error")
            for line in p.stdout.splitlines():
                print("# " + line)
        out = os.path.join(d, "root")
        subprocess.run(["dpkg-deb", "-x", debs[0], out], check=True)
        p = subprocess.run([os.path.join(out, "usr/bin/joist"), "version"], capture_output=True)
        failed += p.returncode != 0
        print(("ok" if p.returncode == 0 else "not ok") + " 3 - the program in it runs")
    return 1 if failed else 0


sys.exit(main())
