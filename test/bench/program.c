/* Real programs, as the distribution has them: Lua's interpreter and zlib. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#ifdef HAVE_LUA
#include <lua5.4/lauxlib.h>
#include <lua5.4/lua.h>
#include <lua5.4/lualib.h>
#endif
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif

#ifdef HAVE_LUA
static lua_State *lua;

static int lua_setup(void) {
	static const char text[] =
		"local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end\n"
		"function do_fib() return fib(16) end\n"
		"local t = {}\n"
		"function do_table()\n"
		"  for i = 1, 1000 do t[i] = i * 3 % 101 end\n"
		"  local s = 0\n"
		"  for k = 1, 5 do for i = 1, #t do s = s + t[i] end end\n"
		"  return s\n"
		"end\n"
		"local P = {} P.__index = P\n"
		"function P:move(d) self.x = self.x + d; return self end\n"
		"function do_object()\n"
		"  local s = 0\n"
		"  for i = 1, 300 do s = s + setmetatable({x = i, y = 0}, P):move(2):move(3).x end\n"
		"  return s\n"
		"end\n"
		"function do_string()\n"
		"  local r = {}\n"
		"  for i = 1, 200 do r[i] = ('item ' .. i):upper():gsub('T', 't') end\n"
		"  return #table.concat(r, ',')\n"
		"end\n";

	lua = luaL_newstate();
	if (!lua)
		return -1;
	luaL_openlibs(lua);
	return luaL_dostring(lua, text) == LUA_OK ? 0 : -1;
}

static void lua_times(uint64_t n, const char *function) {
	for (; n; n--) {
		lua_getglobal(lua, function);
		if (lua_pcall(lua, 0, 1, 0) != LUA_OK)
			abort();
		bench_sink = (uint64_t)lua_tonumber(lua, -1);
		lua_pop(lua, 1);
	}
}
#else
static int lua_setup(void) {
	return -1;
}

static void lua_times(uint64_t n, const char *function) {
}
#endif

static void lua_fib(uint64_t n) {
	lua_times(n, "do_fib");
}

static void lua_table(uint64_t n) {
	lua_times(n, "do_table");
}

static void lua_object(uint64_t n) {
	lua_times(n, "do_object");
}

static void lua_string(uint64_t n) {
	lua_times(n, "do_string");
}

#define TEXT 65536

#ifdef HAVE_ZLIB
static uint8_t plain[TEXT], packed[TEXT * 2], unpacked[TEXT];
static uLongf packed_len;

/* Something like text: words of a small vocabulary, the frequent ones more often. */
static int zlib_setup(void) {
	uint64_t seed = 23;
	size_t at = 0;

	while (at < TEXT) {
		uint64_t word = bench_random(&seed) >> 20, w;

		word = word % (1 + word / 512 % 400);
		w = (word + 1) * 0x9e3779b97f4a7c15;
		for (size_t i = 0; i < 2 + w % 7 && at < TEXT; i++)
			plain[at++] = (uint8_t)('a' + (w >> (8 + 5 * i) & 31) % 26);
		if (at < TEXT)
			plain[at++] = ' ';
	}
	packed_len = sizeof(packed);
	return compress2(packed, &packed_len, plain, TEXT, 6) == Z_OK ? 0 : -1;
}

static void deflate_run(uint64_t n) {
	static uint8_t out[TEXT * 2];

	for (; n; n--) {
		uLongf len = sizeof(out);

		if (compress2(out, &len, plain, TEXT, 6) != Z_OK)
			abort();
		bench_sink = len;
	}
}

static void inflate_run(uint64_t n) {
	for (; n; n--) {
		uLongf len = sizeof(unpacked);

		if (uncompress(unpacked, &len, packed, packed_len) != Z_OK)
			abort();
		bench_sink = len;
	}
}
#else
static int zlib_setup(void) {
	return -1;
}

static void deflate_run(uint64_t n) {
}

static void inflate_run(uint64_t n) {
}
#endif

const struct bench bench_program[] = {
	{"lua-fib", lua_setup, lua_fib, 3193},
	{"lua-table", lua_setup, lua_table, 6000},
	{"lua-object", lua_setup, lua_object, 300},
	{"lua-string", lua_setup, lua_string, 200},
	{"deflate", zlib_setup, deflate_run, TEXT},
	{"inflate", zlib_setup, inflate_run, TEXT},
	{NULL, NULL, NULL, 0},
};
