// ssdChunkScan as a Mamba-2 layer calls it, without its gate (which its norm has), in each of its forms.
import { type DType, ssdChunkScan, type SsdMode } from '../../lib/index.js'
import { type Bench, type Prepared, type Work, measure } from '../bench.js'
import { bytesOf, dtypesOn, Inputs } from '../inputs.js'

interface Size {
  B: number
  L: number
  H: number
  P: number
  N: number
  G: number
}

/**
 * The floor. Bytes: x read, out written, B, C and dt once. Operations: those of the chunked form, which is linear in L, with
 * chunks of 64: C·S and the state's update, n multiply-adds each a channel, and half of the chunk for the rest; C·Bᵀ once a group.
 */
export function ssdWork({ B, L, H, P, N, G }: Size, dtype: DType): Work {
  const Q = Math.min(64, L)
  const operations = 2 * B * L * (H * P * (2 * N + Q / 2) + (G * N * Q) / 2)
  return {
    bytes: bytesOf(dtype) * B * L * (2 * H * P + 2 * G * N + H),
    ...(dtype === 'float32' ? { operations } : { products: operations }),
  }
}

const head = { H: 24, P: 64, N: 128, G: 1 } // of Mamba-2 of 130 million parameters
const cpu: readonly Size[] = [
  { B: 1, L: 2048, ...head },
  { B: 1, L: 512, ...head },
  { B: 8, L: 512, ...head },
]
const cuda: readonly Size[] = [
  { B: 1, L: 2048, ...head },
  { B: 8, L: 2048, ...head },
  { B: 1, L: 2048, ...head, H: 80 },
  { B: 8, L: 2048, ...head, H: 80 },
  { B: 16, L: 1024, ...head, H: 80 },
  { B: 1, L: 16384, ...head, H: 80 },
  { B: 1, L: 131072, ...head, H: 80 },
]

export async function ssd(bench: Bench): Promise<void> {
  if (bench.device.type === 'cuda') {
    for (const dtype of dtypesOn(bench.device))
      for (const size of bench.quick ? cuda.slice(0, 1) : cuda) await one(bench, size, 'auto', dtype)
    return
  }
  for (const size of bench.quick ? cpu.slice(0, 1) : cpu)
    for (const mode of ['auto', 'chunked', 'recurrent', 'quadratic'] as const)
      if (mode !== 'quadratic' || size.L <= 512) await one(bench, size, mode, 'float32')
}

async function one(bench: Bench, size: Size, mode: SsdMode, dtype: DType): Promise<void> {
  await measure(bench, 'ssd', { ...size, mode, dtype }, () => prepared(bench, size, mode, dtype))
}

function prepared(bench: Bench, size: Size, mode: SsdMode, dtype: DType): Prepared {
  const { B, L, H, P, N, G } = size
  const from = new Inputs(bench.device)
  const x = from.uniform([B, L, H, P], -1, 1, dtype)
  const dt = from.uniform([B, L, H], -6, -2, dtype)
  const A = from.uniform([H], -16, -1)
  const [Bs, Cs] = [from.uniform([B, L, G, N], -1, 1, dtype), from.uniform([B, L, G, N], -1, 1, dtype)]
  const options = { D: from.uniform([H]), dtBias: from.uniform([H], -0.5, 0.5), dtSoftplus: true, mode }
  return {
    queue: () => ssdChunkScan(x, dt, A, Bs, Cs, options).dispose(),
    work: ssdWork(size, dtype),
    rates: (ms: number) => ({
      tok_s: Number(((B * L * 1e3) / ms).toPrecision(4)),
      gupdates_s: Number(((B * L * H * P * N) / ms / 1e6).toPrecision(4)),
    }),
    inputs: from.made,
  }
}
