// selectiveScan with everything a Mamba layer gives it: z, D, a bias and softplus.
import { type DType, selectiveScan } from '../../lib/index.js'
import { type Bench, type Work, measure } from '../bench.js'
import { bytesOf, dtypesOn, Inputs, type Layout } from '../inputs.js'

interface Size {
  B: number
  D: number
  L: number
}

const everywhere: readonly Size[] = [{ B: 1, D: 1536, L: 2048 }]
const cuda: readonly Size[] = [
  { B: 8, D: 1536, L: 2048 },
  { B: 1, D: 5120, L: 2048 },
  { B: 8, D: 5120, L: 2048 },
  { B: 1, D: 5120, L: 16384 },
  { B: 1, D: 1536, L: 65536 },
  { B: 1, D: 5120, L: 131072 },
  { B: 64, D: 1536, L: 512 },
]
const cpu: readonly Size[] = [
  { B: 1, D: 1536, L: 512 },
  { B: 8, D: 1536, L: 512 },
  { B: 1, D: 5120, L: 512 },
]

/**
 * The floor. Bytes: u, Δ and z read, out written; B and C once. Operations a state: Δ·A, three of an exponential's polynomial, its
 * power of two, and a multiply-add each for Δu·B, for the state and for C·h: eight instructions of the units that multiply.
 * Special functions on CUDA: N exponentials, and two each for softplus and silu.
 */
export function scanWork({ B, D, L }: Size, N: number, dtype: DType): Work {
  const elements = B * D * L
  return {
    bytes: bytesOf(dtype) * (4 * elements + 2 * B * N * L),
    operations: 2 * 8 * N * elements,
    special: (N + 4) * elements,
  }
}

export async function scan(bench: Bench): Promise<void> {
  const N = 16
  const sizes = [...everywhere, ...(bench.quick ? [] : bench.device.type === 'cuda' ? cuda : cpu)]
  for (const dtype of dtypesOn(bench.device))
    for (const size of sizes)
      for (const layout of ['bdl', 'bld'] as const)
        await measure(bench, 'scan', { ...size, N, layout, dtype }, () => prepared(bench, size, N, layout, dtype))
}

function prepared(bench: Bench, size: Size, N: number, layout: Layout, dtype: DType) {
  const { B, D, L } = size
  const from = new Inputs(bench.device)
  const u = from.channels([B, D, L], layout, dtype)
  const delta = from.channels([B, D, L], layout, dtype, -6, -2)
  const z = from.channels([B, D, L], layout, dtype)
  const A = from.uniform([D, N], -16, -1)
  const [Bs, Cs] = [from.channels([B, N, L], layout, dtype), from.channels([B, N, L], layout, dtype)]
  const options = { D: from.uniform([D]), z, deltaBias: from.uniform([D], -0.5, 0.5), deltaSoftplus: true }
  return {
    queue: () => selectiveScan(u, delta, A, Bs, Cs, options).dispose(),
    work: scanWork(size, N, dtype),
    rates: (ms: number) => ({
      gelem_s: Number(((B * D * L) / ms / 1e6).toPrecision(4)),
      gupdates_s: Number(((B * D * L * N) / ms / 1e6).toPrecision(4)),
    }),
    inputs: from.made,
  }
}
