// One token: selectiveStateUpdate in Mamba's and Mamba-2's form, and causalConv1dUpdate.
import { causalConv1dUpdate, type DType, selectiveStateUpdate, type Tensor } from '../../lib/index.js'
import { type Bench, measure } from '../bench.js'
import { bytesOf, dtypesOn, Inputs } from '../inputs.js'

export async function update(bench: Bench): Promise<void> {
  const cuda = bench.device.type === 'cuda'
  const batches = bench.quick ? [1] : cuda ? [1, 16, 128] : [1, 16]
  for (const dtype of dtypesOn(bench.device)) {
    for (const B of batches) for (const D of [1536, 5120]) await mamba(bench, dtype, B, D, 16)
    for (const B of batches) await mamba2(bench, dtype, B, cuda ? 80 : 24, 64, 128)
    for (const B of batches) for (const D of [1536, 5120]) await convolution(bench, dtype, B, D, 4)
  }
}

/** The floor: the state (float32) read and written, A read; six multiply-adds and three products a state, one exponential. */
async function mamba(bench: Bench, dtype: DType, B: number, D: number, N: number): Promise<void> {
  await measure(bench, 'update', { form: 'mamba', B, D, N, dtype }, () => {
    const from = new Inputs(bench.device)
    const of = (...shape: number[]): Tensor => from.uniform(shape, -1, 1, dtype)
    const state = from.uniform([B, D, N], -0.1, 0.1)
    const [x, dt, z] = [of(B, D), from.uniform([B, D], -6, -2, dtype), of(B, D)]
    const [A, b, c] = [from.uniform([D, N], -16, -1), of(B, N), of(B, N)]
    const options = { D: from.uniform([D]), z, dtBias: from.uniform([D], -0.5, 0.5), dtSoftplus: true }
    return {
      queue: () => selectiveStateUpdate(state, x, dt, A, b, c, options).dispose(),
      work: {
        bytes: 4 * (2 * B * D * N + D * N) + bytesOf(dtype) * (4 * B * D + 2 * B * N),
        operations: 18 * B * D * N,
        special: B * D * (N + 4),
      },
      inputs: from.made,
    }
  })
}

/** A, dt and D are one number a head there: expanded views here have their full shapes, so the floor counts them in full. */
async function mamba2(bench: Bench, dtype: DType, B: number, H: number, P: number, N: number): Promise<void> {
  await measure(bench, 'update', { form: 'mamba2', B, H, P, N, dtype }, () => {
    const from = new Inputs(bench.device)
    const of = (...shape: number[]): Tensor => from.uniform(shape, -1, 1, dtype)
    const state = from.uniform([B, H, P, N], -0.1, 0.1)
    const [x, dt, z] = [of(B, H, P), from.uniform([B, H, P], -6, -2, dtype), of(B, H, P)]
    const [A, b, c] = [from.uniform([H, P, N], -16, -1), of(B, 1, N), of(B, 1, N)]
    const options = { D: from.uniform([H, P]), z, dtBias: from.uniform([H, P], -0.5, 0.5), dtSoftplus: true }
    const states = B * H * P * N
    return {
      queue: () => selectiveStateUpdate(state, x, dt, A, b, c, options).dispose(),
      work: {
        bytes: 4 * (2 * states + H * P * N) + bytesOf(dtype) * (4 * B * H * P + 2 * B * N),
        operations: 18 * states,
        special: states + 4 * B * H * P,
      },
      inputs: from.made,
    }
  })
}

/** The floor: x and the state (float32) read, out and the state written. */
async function convolution(bench: Bench, dtype: DType, B: number, D: number, K: number): Promise<void> {
  await measure(bench, 'update', { form: 'conv1d', B, D, K, dtype }, () => {
    const from = new Inputs(bench.device)
    const state = from.uniform([B, D, K - 1])
    const x = from.uniform([B, D], -1, 1, dtype)
    const weight = from.uniform([D, K])
    const options = { bias: from.uniform([D]), activation: 'silu' } as const
    return {
      queue: () => causalConv1dUpdate(x, state, weight, options).dispose(),
      work: {
        bytes: bytesOf(dtype) * 2 * B * D + 4 * (2 * B * D * (K - 1) + D * K + D),
        operations: 2 * K * B * D,
        special: 2 * B * D,
      },
      inputs: from.made,
    }
  })
}
