// Whole models: a prompt of 512 tokens at once, and tokens one at a time.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { type StoredTensor, saveSafetensors } from '../../lib/checkpoint/index.js'
import { type LanguageModel, load } from '../../lib/models/index.js'
import { type Bench, floorOf, round, timingKeys } from '../bench.js'
import { values } from '../inputs.js'
import { median, timeAsync } from '../measure.js'

const fixture = fileURLToPath(new URL('../../test/fixtures/kjv-mamba', import.meta.url))

export async function model(bench: Bench): Promise<void> {
  if (wanted(bench, 'kjv-mamba')) await measureModel(bench, 'kjv-mamba', fixture)
  if (!bench.quick && wanted(bench, 'mamba-130m')) {
    const dir = await mkdtemp(path.join(tmpdir(), 'seqmix-bench-'))
    try {
      await writeMamba(dir, { hidden: 768, layers: 24, vocabulary: 4096 })
      await measureModel(bench, 'mamba-130m', dir)
    } finally {
      await rm(dir, { recursive: true })
    }
  }
}

function wanted(bench: Bench, name: string): boolean {
  return bench.wants('model', { name, work: 'prefill', L: 512 }) || bench.wants('model', { name, work: 'decode' })
}

/**
 * The floor of a prompt: two operations a weight and token, of the weights that every token passes through. Of a token: the
 * weights read once.
 */
async function measureModel(bench: Bench, name: string, dir: string): Promise<void> {
  const m = await load(dir, { device: bench.device })
  try {
    const L = 512
    const ids = Array.from({ length: L }, (_, i) => (i * 7919) % 256)
    const row = { op: 'model', pass: 'forward', device: bench.device.name, dtype: 'float32', name }
    if (bench.wants('model', { name, work: 'prefill', L })) {
      const t = await timeAsync(() => prefill(m, ids), bench.effort)
      const floor = floorOf({ bytes: 4 * m.parameters, operations: 2 * m.parameters * L }, bench.ceilings())
      const share = round(floor / t.ms, 3)
      bench.report({ ...row, work: 'prefill', L, ...timingKeys(t), tok_s: round((1e3 * L) / t.ms), floor_share: share })
    }
    if (bench.wants('model', { name, work: 'decode' })) {
      const tokens = bench.quick ? 16 : 64
      const samples = await decode(m, ids.slice(0, 16), tokens)
      const ms = median(samples)
      const ms_min = round(Math.min(...samples))
      const share = round(floorOf({ bytes: 4 * m.parameters }, bench.ceilings()) / ms, 3)
      bench.report({
        ...row,
        work: 'decode',
        ms: round(ms),
        ms_min,
        samples: tokens,
        tok_s: round(1e3 / ms),
        floor_share: share,
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

/** A checkpoint of random weights, as large as they come in training: nothing overflows, and nothing is zero. */
async function writeMamba(
  dir: string,
  { hidden, layers, vocabulary }: { hidden: number; layers: number; vocabulary: number },
): Promise<void> {
  const [d, n, w, rank] = [2 * hidden, 16, 4, Math.ceil(hidden / 16)]
  const tensors: Record<string, StoredTensor> = {}
  const put = (name: string, shape: number[], from: number, to: number): void => {
    const count = shape.reduce((product, size) => product * size, 1)
    tensors[`backbone.${name}`] = { dtype: 'float32', shape, data: values(count, from, to) }
  }
  const matrix = (name: string, out: number, into: number): void => {
    const scale = Math.sqrt(3 / into)
    put(name, [out, into], -scale, scale)
  }
  put('embeddings.weight', [vocabulary, hidden], -0.1, 0.1)
  put('norm_f.weight', [hidden], 0.9, 1.1)
  for (let i = 0; i < layers; i++) {
    const mixer = `layers.${i}.mixer`
    put(`layers.${i}.norm.weight`, [hidden], 0.9, 1.1)
    matrix(`${mixer}.in_proj.weight`, 2 * d, hidden)
    put(`${mixer}.conv1d.weight`, [d, 1, w], -0.5, 0.5)
    put(`${mixer}.conv1d.bias`, [d], -0.5, 0.5)
    matrix(`${mixer}.x_proj.weight`, rank + 2 * n, d)
    matrix(`${mixer}.dt_proj.weight`, d, rank)
    put(`${mixer}.dt_proj.bias`, [d], -6, -2)
    put(`${mixer}.A_log`, [d, n], 0, Math.log(n))
    put(`${mixer}.D`, [d], 0.9, 1.1)
    matrix(`${mixer}.out_proj.weight`, hidden, d)
  }
  await saveSafetensors(path.join(dir, 'model.safetensors'), tensors)
  const config = {
    model_type: 'mamba',
    hidden_size: hidden,
    intermediate_size: d,
    state_size: n,
    conv_kernel: w,
    time_step_rank: rank,
    num_hidden_layers: layers,
    vocab_size: vocabulary,
    tie_word_embeddings: true,
  }
  await writeFile(path.join(dir, 'config.json'), JSON.stringify(config))
}
