// causalConv1d with a bias and silu.
import { causalConv1d } from '../../lib/index.js'
import { type Bench, measure } from '../bench.js'
import { bytesOf, dtypesOn, Inputs } from '../inputs.js'

const everywhere = [
  { B: 1, D: 1536, L: 512 },
  { B: 1, D: 1536, L: 2048 },
]
const cuda = [
  { B: 8, D: 5120, L: 2048 },
  { B: 1, D: 5120, L: 65536 },
]

/** The floor: x read, out written; K multiply-adds an element, and an exponential and a reciprocal for silu. */
export async function conv1d(bench: Bench): Promise<void> {
  const K = 4
  const sizes = [...everywhere, ...(bench.device.type === 'cuda' && !bench.quick ? cuda : [])]
  const cases = dtypesOn(bench.device).flatMap((dtype) => sizes.map((size) => ({ size, dtype })))
  for (const { size, dtype } of cases)
    for (const layout of ['bdl', 'bld'] as const)
      await measure(bench, 'conv1d', { ...size, K, layout, dtype }, () => {
        const { B, D, L } = size
        const from = new Inputs(bench.device)
        const x = from.channels([B, D, L], layout, dtype)
        const weight = from.uniform([D, K])
        const options = { bias: from.uniform([D]), activation: 'silu' } as const
        const elements = B * D * L
        return {
          queue: () => causalConv1d(x, weight, options).dispose(),
          work: { bytes: 2 * bytesOf(dtype) * elements, operations: 2 * K * elements, special: 2 * elements },
          rates: (ms) => ({ gelem_s: Number((elements / ms / 1e6).toPrecision(4)) }),
          inputs: from.made,
        }
      })
}
