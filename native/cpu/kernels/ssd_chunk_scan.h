// ssd_chunk_scan: which form it takes.

static void ssd_chunk_scan_kernel(Context& context, const Problem& problem) {
  SsdChunkScan p = static_cast<const SsdChunkScan&>(problem);
  context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.recurrent");
  if (p.x.shape[0] == 0 || p.x.shape[2] == 0) return;
  p.A = widened(context, p.A);
  p.D = widened(context, p.D);
  p.dt_bias = widened(context, p.dt_bias);
  if (p.mode == SsdMode::recurrent) {
    context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.recurrent");
    return ssd_recurrent(context, p);
  }
  if (p.mode == SsdMode::quadratic) {
    context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.quadratic");
    return ssd_quadratic(context, p);
  }
  context.kernel = SEQMIX_KERNEL("ssd_chunk_scan.chunked");
  ssd_chunked(context, p, p.chunk_size ? p.chunk_size : 64);
}
