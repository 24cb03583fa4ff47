// Whole models: a prompt of 512 tokens at once, and tokens one at a time.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import type { DType } from '../../lib/index.js'
import { type LanguageModel, load } from '../../lib/models/index.js'
import { type Bench, besideFloor, round, timingKeys } from '../bench.js'
import { median, timeAsync } from '../measure.js'
import { mamba130m, mamba2_130m, writeMamba } from '../random-model.js'

const fixture = fileURLToPath(new URL('../../test/fixtures/kjv-mamba', import.meta.url))

const shapes = [
  ['mamba-130m', mamba130m],
  ['mamba2-130m', mamba2_130m],
] as const

export async function model(bench: Bench): Promise<void> {
  if (wanted(bench, 'kjv-mamba')) await measureModel(bench, 'kjv-mamba', fixture, 'float32')
  if (bench.quick) return
  for (const [name, shape] of shapes)
    for (const weights of ['float32', 'float16', 'bfloat16'] as const) {
      if (!wanted(bench, name, weights)) continue
      const dir = await mkdtemp(path.join(tmpdir(), 'seqmix-bench-'))
      try {
        await writeMamba(dir, shape, weights)
        await measureModel(bench, name, dir, weights)
      } finally {
        await rm(dir, { recursive: true })
      }
    }
}

function wanted(bench: Bench, name: string, weights: DType = 'float32'): boolean {
  return (
    bench.wants('model', { name, weights, work: 'prefill', L: 512 }) ||
    bench.wants('model', { name, weights, work: 'decode' })
  )
}

/**
 * The floor of a prompt: two operations a weight and token, of the weights that every token passes through. Of a token: the
 * weights read once.
 */
async function measureModel(bench: Bench, name: string, dir: string, weights: DType): Promise<void> {
  const m = await load(dir, { device: bench.device })
  try {
    const L = 512
    const ids = Array.from({ length: L }, (_, i) => (i * 7919) % 256)
    const row = { op: 'model', pass: 'forward', device: bench.device.name, dtype: m.dtype, name, weights }
    if (bench.wants('model', { name, weights, work: 'prefill', L })) {
      const work = { bytes: m.bytes, operations: 2 * m.parameters * L }
      const [t, floorKeys] = await besideFloor(bench, work, () => timeAsync(() => prefill(m, ids), bench.effort))
      const tok_s = round((1e3 * L) / t.ms)
      bench.report({ ...row, work: 'prefill', L, ...timingKeys(t), tok_s, ...floorKeys(t.ms) })
    }
    if (bench.wants('model', { name, weights, work: 'decode' })) {
      const tokens = bench.quick ? 16 : 64
      const [samples, floorKeys] = await besideFloor(bench, { bytes: m.bytes }, () =>
        decode(m, ids.slice(0, 16), tokens),
      )
      const ms = median(samples)
      const ms_min = round(Math.min(...samples))
      bench.report({
        ...row,
        work: 'decode',
        ms: round(ms),
        ms_min,
        samples: tokens,
        tok_s: round(1e3 / ms),
        ...floorKeys(ms),
      })
    }
  } finally {
    m.dispose()
  }
}

/** As generation does it: the first id after the prompt. */
async function prefill(m: LanguageModel, ids: number[]): Promise<void> {
  for await (const id of m.generate(ids, { maxNewTokens: 1, ignoreEos: true })) void id
}

/** Milliseconds from each token to the next, the first ones (the prompt's) left out. */
async function decode(m: LanguageModel, ids: number[], tokens: number): Promise<number[]> {
  const warm = 4
  const samples: number[] = []
  let last = 0
  for await (const id of m.generate(ids, { maxNewTokens: tokens + warm + 1, ignoreEos: true })) {
    void id
    const now = performance.now()
    samples.push(now - last)
    last = now
  }
  return samples.slice(warm + 1)
}
