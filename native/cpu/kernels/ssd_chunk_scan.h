// ssd_chunk_scan: which form it takes. A quadratic one is never chosen for being fast: up to 256 tokens it is one
// chunk.

// Tokens of a chunk, or 0 for token by token. It must not depend on the threads, since the forms differ in bits.
SEQMIX_VERB int64_t ssd_choose(const SsdChunkScan& p) {
  if (p.chunk_size) return p.chunk_size;
  int row = 0, column = 0;
  while (row + 1 < kSsdTableRows && p.B.shape[3] > kSsdTableStates[row]) row++;
  while (column + 1 < kSsdTableColumns && p.x.shape[1] >= kSsdTableTokens[column + 1]) column++;
  const int64_t chunk = kSsdTables[W == 16][row][column];
  return chunk || p.mode == SsdMode::automatic ? chunk : kSsdLeastChunk;
}

static void ssd_chunk_scan_kernel(Context& context, const Problem& problem) {
  SsdChunkScan p = static_cast<const SsdChunkScan&>(problem);
  context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.recurrent");
  if (p.x.shape[0] == 0 || p.x.shape[2] == 0) return;
  p.A = widened(context, p.A);
  p.D = widened(context, p.D);
  p.dt_bias = widened(context, p.dt_bias);
  if (p.mode == SsdMode::quadratic) {
    context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.quadratic");
    return ssd_quadratic(context, p);
  }
  const int64_t chunk = p.mode == SsdMode::recurrent ? 0 : ssd_choose(p);
  if (chunk == 0) return ssd_recurrent(context, p);
  context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.chunked");
  ssd_chunked(context, p, chunk);
}
