/* See inflate.h. Streams come from images: hostile, and followed by what does not belong to
 * them, since images store their length in sectors only. */
#include "host/linux/inflate.h"

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

static void *take(void *opaque, size_t size) {
	return calloc(1, size);
}

static void give(void *opaque, void *p, size_t size) {
	free(p);
}

static int inflate_zlib(void *out, size_t out_len, const void *in, size_t in_len) {
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
				  .avail_in = (uInt)in_len,
				  .next_out = out,
				  .avail_out = (uInt)out_len};
	if (inflateInit2(&z, -15) != Z_OK) /* raw; windows of writers are smaller */
		return -ERR_NOMEM;
	int r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The stream's end may lie behind the last byte that is wanted. */
	return z.avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK) ? 0 : -ERR_IO;
}

static int inflate_zstd(void *out, size_t out_len, const void *in, size_t in_len) {
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_inBuffer from = {in, in_len, 0};
	ZSTD_outBuffer to = {out, out_len, 0};
	size_t r = 1;
	if (!z)
		return -ERR_NOMEM;
	while (to.pos < to.size && r && !ZSTD_isError(r)) {
		size_t before = from.pos + to.pos;
		r = ZSTD_decompressStream(z, &to, &from);
		if (from.pos + to.pos == before)
			break;
	}
	ZSTD_freeDStream(z);
	return to.pos == to.size ? 0 : -ERR_IO;
}

static int host_inflate(void *opaque, enum block_compression type, void *out, size_t out_len,
						const void *in, size_t in_len) {
	return type == BLOCK_ZSTD ? inflate_zstd(out, out_len, in, in_len)
							  : inflate_zlib(out, out_len, in, in_len);
}

const struct block_host host_block = {.alloc = take, .free = give, .inflate = host_inflate};

/* Readers have a window of 4 KiB only. */
static size_t deflate_zlib(void *out, size_t out_len, const void *in, size_t in_len) {
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
				  .avail_in = (uInt)in_len,
				  .next_out = out,
				  .avail_out = (uInt)out_len};
	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
		return 0;
	int r = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return r == Z_STREAM_END ? out_len - z.avail_out : 0;
}

size_t host_deflate(enum block_compression type, void *out, size_t out_len, const void *in,
					size_t in_len) {
	if (type == BLOCK_ZLIB)
		return deflate_zlib(out, out_len, in, in_len);
	size_t n = ZSTD_compress(out, out_len, in, in_len, ZSTD_CLEVEL_DEFAULT);
	return ZSTD_isError(n) ? 0 : n;
}
