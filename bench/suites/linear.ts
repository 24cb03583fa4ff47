// linear: a prompt's products, one token's (a weight read once) and those of a few sequences at a time, with weights of
// four bytes and of two; on CUDA the products of two Mamba models in bfloat16 as well, which peers/torch_linear.py times
// with PyTorch.
import { type DType, linear as op, type Tensor } from '../../lib/index.js'
import { type Bench, type Letters, measure } from '../bench.js'
import { bytesOf, Inputs } from '../inputs.js'

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
  { M: 4, K: 768, N: 3072 },
  { M: 16, K: 768, N: 3072 },
]
const large: Size = { M: 4096, K: 4096, N: 4096 }

/** The products of a layer of a Mamba of 130 million parameters, which has 24 of them. */
const layer = [
  { K: 768, N: 3072 },
  { K: 1536, N: 80 },
  { K: 48, N: 1536 },
  { K: 1536, N: 768 },
]

/** What a layer and the head multiply by, (K, N): the same Mamba, and one of 2.8 billion parameters. */
const weights = [
  ...layer.map(({ K, N }) => [K, N] as const),
  [768, 50280],
  [2560, 10240],
  [5120, 192],
  [160, 5120],
  [5120, 2560],
  [2560, 50280],
] as const
const models = [1, 16, 512, 2048].flatMap((M) => weights.map(([K, N]): Size => ({ M, K, N })))

export async function linear(bench: Bench): Promise<void> {
  if (bench.device.type === 'cuda') await onCuda(bench)
  else await onCpu(bench)
}

async function onCuda(bench: Bench): Promise<void> {
  const one = async (size: Size, dtype: DType): Promise<void> =>
    measureProducts(bench, { ...size, dtype }, dtype, dtype, [size])
  for (const size of bench.quick ? products.slice(0, 1) : [...products, large]) await one(size, 'float32')
  for (const size of bench.quick ? models.slice(-1) : [...models, large]) await one(size, 'bfloat16')
}

async function onCpu(bench: Bench): Promise<void> {
  for (const weights of ['float32', 'float16', 'bfloat16'] as const) {
    for (const size of bench.quick ? products.slice(0, 1) : products)
      await measureProducts(bench, { ...size, weights }, 'float32', weights, [size])
    if (bench.quick) continue
    for (const M of [1, 4]) {
      const all = Array.from({ length: 24 }, () => layer.map((s) => ({ M, ...s }))).flat()
      await measureProducts(bench, { name: 'a token of mamba-130m', M, weights }, 'float32', weights, all)
    }
  }
}

/**
 * M rows of x (M, K) by W (N, K), for each of the sizes. The floor: 2MNK operations, of float32 (no tf32) or, where both
 * are of one 16-bit dtype, on tensor cores; x and W read, out written.
 */
async function measureProducts(
  bench: Bench,
  letters: Letters,
  dtype: DType,
  weights: DType,
  sizes: readonly Size[],
): Promise<void> {
  await measure(bench, 'linear', letters, () => {
    const from = new Inputs(bench.device)
    const pairs = sizes.map(({ M, K, N }): [Tensor, Tensor] => [
      from.uniform([M, K], -1, 1, dtype),
      from.uniform([N, K], -1, 1, weights),
    ])
    const sum = (f: (s: Size) => number): number => sizes.reduce((n, s) => n + f(s), 0)
    const [a, w] = [bytesOf(dtype), bytesOf(weights)]
    const operations = sum(({ M, K, N }) => 2 * M * N * K)
    const onTensorCores = dtype !== 'float32' && dtype === weights
    return {
      queue: () => {
        for (const [x, weight] of pairs) op(x, weight).dispose()
      },
      work: {
        bytes: sum(({ M, K, N }) => a * (M * K + M * N) + w * N * K),
        ...(onTensorCores ? { products: operations } : { operations }),
      },
      rates: (ms) => ({ tflops: Number((operations / ms / 1e9).toPrecision(4)) }),
      inputs: from.made,
    }
  })
}
