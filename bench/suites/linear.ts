// linear in float32: a prompt's products, and one token's (a weight read once).
import { linear as op } from '../../lib/index.js'
import { type Bench, measure } from '../bench.js'
import { Inputs } from '../inputs.js'

const products = [
  { M: 512, K: 768, N: 3072 },
  { M: 512, K: 1536, N: 768 },
  { M: 512, K: 1536, N: 80 },
  { M: 512, K: 48, N: 1536 },
  { M: 1, K: 768, N: 3072 },
  { M: 1, K: 1536, N: 768 },
  { M: 1, K: 768, N: 50280 },
  { M: 16, K: 768, N: 3072 },
]
const large = [{ M: 4096, K: 4096, N: 4096 }]

/** The floor: 2MNK operations of float32 (no tf32); x and W read, out written. M rows of x (M, K) by W (N, K). */
export async function linear(bench: Bench): Promise<void> {
  const sizes = bench.quick ? products.slice(0, 1) : bench.device.type === 'cuda' ? [...products, ...large] : products
  for (const size of sizes)
    await measure(bench, 'linear', size, () => {
      const { M, K, N } = size
      const from = new Inputs(bench.device)
      const [x, w] = [from.uniform([M, K]), from.uniform([N, K])]
      return {
        queue: () => op(x, w).dispose(),
        work: { bytes: 4 * (M * K + N * K + M * N), operations: 2 * M * N * K },
        rates: (ms) => ({ tflops: Number(((2 * M * N * K) / ms / 1e9).toPrecision(4)) }),
        inputs: from.made,
      }
    })
}
