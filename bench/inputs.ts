// Random inputs: never zeros, which some machines work on faster.
import { type DType, type Device, type Tensor, tensor } from '../lib/index.js'

let state = 12345

function next(): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0
  return (state >>> 0) / 2 ** 32
}

/** Uniform in [from, to). Large arrays repeat a block of them: drawing takes longer than measuring. */
export function values(count: number, from = -1, to = 1): Float32Array<ArrayBuffer> {
  const all = new Float32Array(count)
  const block = Math.min(count, 1_000_003)
  for (let i = 0; i < block; i++) all[i] = from + (to - from) * next()
  for (let done = block; done < count; done *= 2) all.copyWithin(done, 0, Math.min(done, count - done))
  return all
}

/** Makes tensors on one device and remembers them, so that a case can free its inputs. */
export class Inputs {
  readonly made: Tensor[] = []

  constructor(readonly device: Device) {}

  keep(t: Tensor): Tensor {
    this.made.push(t)
    return t
  }

  uniform(shape: readonly number[], from = -1, to = 1, dtype: DType = 'float32'): Tensor {
    const count = shape.reduce((n, d) => n * d, 1)
    return this.keep(tensor(values(count, from, to), { shape, dtype, device: this.device }))
  }

  /** (b, d, L) whose memory is (b, d, L), or (b, L, d). */
  channels(sizes: readonly [number, number, number], layout: Layout, dtype: DType, from = -1, to = 1): Tensor {
    const [b, d, L] = sizes
    if (layout === 'bdl') return this.uniform(sizes, from, to, dtype)
    return this.keep(this.uniform([b, L, d], from, to, dtype).transpose(1, 2))
  }
}

/** What activations are measured in: on the CPU float32, which is fastest there. */
export function dtypesOn(device: Device): readonly ('float32' | 'bfloat16')[] {
  return device.type === 'cuda' ? ['float32', 'bfloat16'] : ['float32']
}

export function bytesOf(dtype: DType): number {
  return dtype === 'float32' ? 4 : 2
}

export type Layout = 'bdl' | 'bld'
