// Builds openblas.cpp with the native sources as they are, runs it, and prints its lines: ours beside OpenBLAS.
//
//   node openblas.mjs [--library libopenblas.so.0] [--threads 2] [--pairs 15]
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { build } from '../../scripts/cmake.mjs'

const { values: options } = parseArgs({
  options: {
    library: { type: 'string', default: 'libopenblas.so.0' },
    threads: { type: 'string', default: '2' },
    pairs: { type: 'string', default: '15' },
  },
})
const out = build('peers', { SEQMIX_CUDA: 'OFF', SEQMIX_PEERS: 'ON' }, 'seqmix_openblas')
const program = path.join(out, 'seqmix_openblas')
const run = spawnSync(program, [options.library, options.threads, options.pairs], { stdio: 'inherit' })
if (run.error) throw run.error
process.exitCode = run.status ?? 1
