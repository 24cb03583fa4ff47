// linear: a prompt's products, and one token's (a weight read once), in float32; on CUDA in bfloat16 as well, the
// products of two Mamba models. peers/torch_linear.py times the latter with PyTorch.
import { linear as op } from '../../lib/index.js'
import { type Bench, measure } from '../bench.js'
import { Inputs } from '../inputs.js'

interface Size {
  M: number
  K: number
  N: number
}

const products: readonly Size[] = [
  { M: 512, K: 768, N: 3072 },
  { M: 512, K: 1536, N: 768 },
  { M: 512, K: 1536, N: 80 },
  { M: 512, K: 48, N: 1536 },
  { M: 1, K: 768, N: 3072 },
  { M: 1, K: 1536, N: 768 },
  { M: 1, K: 768, N: 50280 },
  { M: 16, K: 768, N: 3072 },
]
const large: Size = { M: 4096, K: 4096, N: 4096 }

/** What a layer and the head multiply by, (K, N): Mamba of 130 million parameters, and of 2.8 billion. */
const weights = [
  [768, 3072],
  [1536, 80],
  [48, 1536],
  [1536, 768],
  [768, 50280],
  [2560, 10240],
  [5120, 192],
  [160, 5120],
  [5120, 2560],
  [2560, 50280],
] as const
const models = [1, 16, 512, 2048].flatMap((M) => weights.map(([K, N]): Size => ({ M, K, N })))

export async function linear(bench: Bench): Promise<void> {
  const cuda = bench.device.type === 'cuda'
  for (const size of bench.quick ? products.slice(0, 1) : cuda ? [...products, large] : products)
    await one(bench, size, 'float32')
  if (!cuda) return
  for (const size of bench.quick ? models.slice(-1) : [...models, large]) await one(bench, size, 'bfloat16')
}

/**
 * M rows of x (M, K) by W (N, K). The floor: 2MNK operations, of float32 (no tf32) or on tensor cores; x and W read, out
 * written.
 */
async function one(bench: Bench, size: Size, dtype: 'float32' | 'bfloat16'): Promise<void> {
  await measure(bench, 'linear', { ...size, dtype }, () => {
    const { M, K, N } = size
    const from = new Inputs(bench.device)
    const [x, w] = [from.uniform([M, K], -1, 1, dtype), from.uniform([N, K], -1, 1, dtype)]
    const operations = 2 * M * N * K
    const bytes = (dtype === 'float32' ? 4 : 2) * (M * K + N * K + M * N)
    return {
      queue: () => op(x, w).dispose(),
      work: dtype === 'float32' ? { bytes, operations } : { bytes, products: operations },
      rates: (ms) => ({ tflops: Number((operations / ms / 1e9).toPrecision(4)) }),
      inputs: from.made,
    }
  })
}
