// Which form of ssdChunkScan is fastest: tokens of a chunk, or 0 where it is faster token by token. A row is for up to
// so many states, a column for so many tokens or more; a table for vectors of up to 8 lanes, and one for 16. Measured
// and printed by bench/ssd-table.ts, with 24 heads of 64 channels.

constexpr int kSsdTableRows = 5, kSsdTableColumns = 4;
constexpr int64_t kSsdTableStates[kSsdTableRows] = {16, 32, 64, 128, 256};
constexpr int64_t kSsdTableTokens[kSsdTableColumns] = {1, 16, 64, 256};
constexpr int64_t kSsdTables[2][kSsdTableRows][kSsdTableColumns] = {
    {{16, 16, 16, 32}, {0, 16, 32, 64}, {0, 16, 64, 64}, {0, 16, 64, 64}, {16, 16, 32, 64}},     // avx2
    {{16, 16, 16, 32}, {16, 16, 32, 32}, {16, 16, 32, 32}, {16, 16, 32, 32}, {16, 16, 32, 32}},  // avx512
};
