// flashAttention of whole sequences, causal and not. Operations under a causal mask are counted at half.
import { type DType, flashAttention } from '../../lib/index.js'
import { type Bench, measure, round } from '../bench.js'
import { bytesOf, dtypesOn, Inputs } from '../inputs.js'

interface Size {
  B: number
  L: number
  Hq: number
  Hk: number
  D: number
}

const heads = { B: 1, Hq: 12, Hk: 12, D: 64 }
const cpu: readonly Size[] = [
  { ...heads, L: 4096 },
  { ...heads, L: 1024 },
  { B: 1, L: 1024, Hq: 32, Hk: 8, D: 128 },
]
// 16384 tokens and 2048 channels, as PEERS.md's table has them
const cuda: readonly Size[] = [64, 128, 256].flatMap((D) =>
  [512, 2048, 4096, 16384].map((L) => ({ B: 16384 / L, L, Hq: 2048 / D, Hk: 2048 / D, D })),
)

export async function attention(bench: Bench): Promise<void> {
  const on = bench.device.type === 'cuda' ? cuda : cpu
  const dtypes = bench.device.type === 'cuda' ? (['bfloat16'] as const) : dtypesOn(bench.device)
  for (const dtype of dtypes)
    for (const size of bench.quick ? on.slice(0, 1) : on)
      for (const causal of [false, true]) await one(bench, size, causal, dtype)
}

async function one(bench: Bench, size: Size, causal: boolean, dtype: DType): Promise<void> {
  const { B, L, Hq, Hk, D } = size
  await measure(bench, 'attention', { ...size, causal: causal ? 'yes' : 'no', dtype }, () => {
    const from = new Inputs(bench.device)
    const q = from.uniform([B, L, Hq, D], -1, 1, dtype)
    const [k, v] = [from.uniform([B, L, Hk, D], -1, 1, dtype), from.uniform([B, L, Hk, D], -1, 1, dtype)]
    const operations = (4 * B * Hq * L * L * D) / (causal ? 2 : 1)
    return {
      queue: () => flashAttention(q, k, v, { causal }).dispose(),
      work: {
        bytes: bytesOf(dtype) * B * L * D * (2 * Hq + 2 * Hk),
        ...(dtype === 'float32' ? { operations } : { products: operations }),
        special: operations / (4 * D),
      },
      rates: (ms: number) => ({ tflops: round(operations / ms / 1e9) }),
      inputs: from.made,
    }
  })
}
