// ssdChunkScan as a Mamba-2 layer calls it, without its gate (which its norm has), in each of its forms.
import { ssdChunkScan, type SsdMode } from '../../lib/index.js'
import { type Bench, type Prepared, type Work, measure } from '../bench.js'
import { Inputs } from '../inputs.js'

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
export function ssdWork({ B, L, H, P, N, G }: Size): Work {
  const Q = Math.min(64, L)
  return {
    bytes: 4 * B * L * (2 * H * P + 2 * G * N + H),
    operations: 2 * B * L * (H * P * (2 * N + Q / 2) + (G * N * Q) / 2),
  }
}

export async function ssd(bench: Bench): Promise<void> {
  const head = { H: 24, P: 64, N: 128, G: 1 }
  const sizes: Size[] = [{ B: 1, L: 2048, ...head }]
  if (!bench.quick) sizes.push({ B: 1, L: 512, ...head }, { B: 8, L: 512, ...head })
  for (const size of sizes)
    for (const mode of ['auto', 'chunked', 'recurrent', 'quadratic'] as const)
      if (mode !== 'quadratic' || size.L <= 512)
        await measure(bench, 'ssd', { ...size, mode }, () => prepared(bench, size, mode))
}

function prepared(bench: Bench, size: Size, mode: SsdMode): Prepared {
  const { B, L, H, P, N, G } = size
  const from = new Inputs(bench.device)
  const x = from.uniform([B, L, H, P])
  const dt = from.uniform([B, L, H], -6, -2)
  const A = from.uniform([H], -16, -1)
  const [Bs, Cs] = [from.uniform([B, L, G, N]), from.uniform([B, L, G, N])]
  const options = { D: from.uniform([H]), dtBias: from.uniform([H], -0.5, 0.5), dtSoftplus: true, mode }
  return {
    queue: () => ssdChunkScan(x, dt, A, Bs, Cs, options).dispose(),
    work: ssdWork(size),
    rates: (ms: number) => ({
      tok_s: Number(((B * L * 1e3) / ms).toPrecision(4)),
      gupdates_s: Number(((B * L * H * P * N) / ms / 1e6).toPrecision(4)),
    }),
    inputs: from.made,
  }
}
