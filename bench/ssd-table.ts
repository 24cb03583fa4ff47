// Measures which form of ssdChunkScan is fastest on this CPU, over states and lengths, and prints a line for
// native/cpu/kernels/ssd_table.h, which has one for each width of vectors:
//
//   npx tsx bench/ssd-table.ts              SEQMIX_CPU_TARGET chooses another than the widest
import { device, devices, setThreads, ssdChunkScan, type SsdMode } from '../lib/index.js'
import { Inputs } from './inputs.js'

const states = [16, 32, 64, 128, 256]
const lengths = [1, 16, 64, 256]
const chunks = [16, 32, 64, 128, 256]
const rounds = 25
const [H, P] = [24, 64]

const cpu = device('cpu')
setThreads(2)

interface Candidate {
  /** Tokens of a chunk; 0: token by token. */
  readonly chunk: number
  ms: number
}

/** The fastest sample of each candidate. They take turns, so that whatever else the machine does meets all. */
function measure(n: number, L: number): Candidate[] {
  const from = new Inputs(cpu)
  const [x, dt, A] = [from.uniform([1, L, H, P]), from.uniform([1, L, H], -6, -2), from.uniform([H], -16, -1)]
  const [B, C] = [from.uniform([1, L, 1, n]), from.uniform([1, L, 1, n])]
  const initialStates = from.uniform([1, H, P, n])
  const candidates: Candidate[] = [0, ...chunks.filter((c) => c === 16 || c / 2 < L)].map((chunk) => ({
    chunk,
    ms: Infinity,
  }))
  const calls = Math.ceil(4096 / (L * 4 + 64))
  for (let round = 0; round <= rounds; round++)
    for (const candidate of candidates) {
      const { chunk } = candidate
      const form: { mode: SsdMode; chunkSize?: number } = chunk
        ? { mode: 'chunked', chunkSize: chunk }
        : { mode: 'recurrent' }
      const options = { ...form, initialStates, dtSoftplus: true, returnFinalStates: true } as const
      cpu.synchronizeSync()
      const start = performance.now()
      for (let i = 0; i < calls; i++) {
        const { out, finalStates } = ssdChunkScan(x, dt, A, B, C, options)
        out.dispose()
        finalStates.dispose()
      }
      cpu.synchronizeSync()
      const ms = (performance.now() - start) / calls
      if (round > 0) candidate.ms = Math.min(candidate.ms, ms) // the first warms up
    }
  for (const t of from.made) t.dispose()
  return candidates
}

/** The fastest; of those as fast but for noise, the one nearest to what longer sequences take. */
function choose(candidates: Candidate[], usual: number): number {
  const best = Math.min(...candidates.map((c) => c.ms))
  const near = candidates.filter((c) => c.ms <= 1.02 * best).map((c) => c.chunk)
  return near.sort((a, b) => Math.abs(a - usual) - Math.abs(b - usual))[0]!
}

const rows = states.map((n) => {
  let usual = 64
  const row: number[] = []
  for (const L of [...lengths].reverse()) {
    const candidates = measure(n, L)
    usual = choose(candidates, usual)
    row.unshift(usual)
    const all = candidates.map((c) => `${c.chunk || 'recurrent'} ${c.ms.toPrecision(3)} ms`)
    process.stderr.write(`n ${n}, L ${L}: ${all.join(', ')}: ${usual || 'recurrent'}\n`)
  }
  return row
})

console.log(
  `    {${rows.map((row) => `{${row.join(', ')}}`).join(', ')}},  // ${devices().find((d) => d.name === 'cpu')?.target}`,
)
