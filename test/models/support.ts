// The checkpoints of test/fixtures and what was computed from them outside this project (golden.safetensors).

import { join } from 'node:path'

import { memory, type Tensor } from '../../lib/index.js'
import { openCheckpoint } from '../../lib/checkpoint/index.js'

export interface Golden {
  readonly dir: string
  readonly vocabulary: number
  /** rows of ids, and the logits of each of their positions */
  readonly inputIds: number[][]
  readonly logits: Float32Array
  /** prompt and greedy continuation together */
  readonly greedyIds: number[]
  readonly promptLength: number
}

export const decoders = ['llama', 'mistral', 'gemma2'] as const
export const names = ['mamba', 'mamba-tied-bias', 'falcon_mamba', 'mamba2', 'kjv-mamba', ...decoders] as const

export function directory(name: (typeof names)[number]): string {
  return name === 'kjv-mamba' ? 'test/fixtures/kjv-mamba' : `test/fixtures/models/${name}`
}

export async function golden(name: (typeof names)[number]): Promise<Golden> {
  const dir = directory(name)
  const checkpoint = await openCheckpoint(join(dir, 'golden.safetensors'))
  const ids = await checkpoint.read('input_ids')
  const logits = await checkpoint.read('logits')
  const greedy = await checkpoint.read('greedy_ids')
  await checkpoint.close()
  const length = ids.shape.at(-1)!
  const flat = Array.from(ids.data as BigInt64Array, Number)
  return {
    dir,
    vocabulary: logits.shape.at(-1)!,
    inputIds: Array.from({ length: flat.length / length }, (_, r) => flat.slice(r * length, (r + 1) * length)),
    logits: logits.data as Float32Array,
    greedyIds: Array.from(greedy.data as BigInt64Array, Number),
    promptLength: name === 'kjv-mamba' ? 'In the beginning God '.length : 13,
  }
}

/** The largest difference between two arrays, over the largest value of the second. NaN where either has one. */
export function difference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  if (got.length !== wanted.length) throw new Error(`expected ${wanted.length} values, got ${got.length}`)
  let largest = 0
  let most = 0
  for (let i = 0; i < wanted.length; i++) {
    const d = Math.abs(got[i]! - wanted[i]!)
    if (!(d <= most)) most = d
    largest = Math.max(largest, Math.abs(wanted[i]!))
    if (Number.isNaN(most)) return NaN
  }
  return most / largest
}

export async function collect<T>(iterator: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of iterator) all.push(item)
  return all
}

/** The values of a tensor, which is freed. */
export async function take(t: Tensor): Promise<Float32Array> {
  try {
    return (await t.data()) as Float32Array
  } finally {
    t.dispose()
  }
}

/** Live tensors of all devices together: what a test leaves behind shows here. */
export function liveTensors(): number {
  return Object.values(memory()).reduce((n, { tensors }) => n + tensors, 0)
}
