// Checkpoints in the form that mamba_ssm itself writes: its config.json, its name of the embedding, rows that pad the tables.
// They are the golden checkpoints, written down anew.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint, saveSafetensors, type StoredTensor } from '../../lib/checkpoint/index.js'
import { tensor } from '../../lib/index.js'
import { load } from '../../lib/models/index.js'
import { failure, temporaryFolder } from '../checkpoint/files.js'
import { logits as reference, readModel } from './reference.js'
import { collect, difference, directory, golden, liveTensors, take, type Golden } from './support.js'

const folder = temporaryFolder()
type Name = 'mamba' | 'mamba-tied-bias' | 'mamba2'
type Values = Record<string, unknown>

interface Source {
  readonly config: Values
  readonly weights: Record<string, StoredTensor>
}

async function read(name: Name): Promise<Source> {
  const checkpoint = await openCheckpoint(directory(name))
  const weights: Record<string, StoredTensor> = {}
  for (const key of checkpoint.names()) weights[key] = await checkpoint.read(key)
  await checkpoint.close()
  return { config: JSON.parse(readFileSync(join(directory(name), 'config.json'), 'utf8')) as Values, weights }
}

// The options of a layer, under the names of its constructor in mamba_ssm.
function layerOptions(config: Values): Values {
  const shared = { d_state: config.state_size, d_conv: config.conv_kernel, expand: config.expand }
  const biases = { bias: config.use_bias, conv_bias: config.use_conv_bias }
  if (config.model_type === 'mamba') return { ...shared, ...biases, dt_rank: config.time_step_rank }
  return { layer: 'Mamba2', ...shared, ...biases, headdim: config.head_dim, ngroups: config.n_groups }
}

function rewritten({ config, weights }: Source, multiple: number): Source {
  const rows = Math.ceil((config.vocab_size as number) / multiple) * multiple
  // Rows that pad a table hold what must never be seen.
  const padded = ({ shape, data }: StoredTensor): StoredTensor => {
    const all = new Float32Array(rows * shape[1]!).fill(1e3)
    all.set(data as Float32Array)
    return { dtype: 'float32', shape: [rows, shape[1]!], data: all }
  }
  const { 'backbone.embeddings.weight': table, 'lm_head.weight': head, ...others } = weights
  return {
    config: {
      d_model: config.hidden_size,
      d_intermediate: 0,
      n_layer: config.num_hidden_layers,
      vocab_size: config.vocab_size,
      ssm_cfg: layerOptions(config),
      attn_layer_idx: [],
      attn_cfg: {},
      rms_norm: true,
      residual_in_fp32: true,
      fused_add_norm: true,
      pad_vocab_size_multiple: multiple,
      tie_embeddings: head === undefined,
    },
    weights: {
      ...others,
      'backbone.embedding.weight': padded(table!),
      'lm_head.weight': padded(head ?? table!), // written even where it is the embedding's
    },
  }
}

async function written(name: string, { config, weights }: Source): Promise<string> {
  const dir = join(folder, name)
  mkdirSync(dir)
  writeFileSync(join(dir, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config))
  await saveSafetensors(join(dir, 'model.safetensors'), weights)
  return dir
}

describe.each(['mamba', 'mamba-tied-bias', 'mamba2'] as const)('%s', (name) => {
  // mamba_ssm norms each group of Mamba-2's by itself, transformers all channels: with one group they are one model.
  let source: Source
  let gold: Golden
  beforeAll(async () => {
    source = await read(name)
    gold = await golden(name)
  })

  test.each([1, 8, 16])('is the same model, its vocabulary a multiple of %i', async (multiple) => {
    const before = liveTensors()
    const made = rewritten(source, multiple)
    const dir = await written(`${name}-${multiple}`, made)
    const model = await load(dir, { dtype: 'float32' })
    const out = model.forward(gold.inputIds)
    expect(out.shape).toEqual([...[gold.inputIds.length, gold.inputIds[0]!.length], gold.vocabulary])
    const got = await take(out)
    if (name === 'mamba2') {
      const read = await readModel(directory(name))
      const wanted = reference({ ...read, config: { ...read.config, norm_group_size: 64 } }, gold.inputIds)
      expect(difference(got, wanted.data)).toBeLessThan(2e-5)
      expect(difference(got, gold.logits)).toBeGreaterThan(1e-3)
    } else {
      expect(difference(got, gold.logits)).toBeLessThan(2e-5)
      const [prompt, rest] = [gold.greedyIds.slice(0, gold.promptLength), gold.greedyIds.slice(gold.promptLength)]
      expect(await collect(model.generate(prompt, { maxNewTokens: rest.length, ignoreEos: true }))).toEqual(rest)
    }
    // The padding is no part of the vocabulary: its ids are refused, or give 0 and an error where they are on a device.
    expect(() => model.forward([gold.vocabulary])).toThrow(expect.objectContaining({ code: 'ERR_INDEX' }))
    const placed = tensor(Int32Array.of(gold.vocabulary), { shape: [1, 1] })
    const refused = model.forward(placed)
    await expect(refused.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
    for (const t of [placed, refused, model]) t.dispose()
    expect(liveTensors()).toBe(before)
  })
})

// The golden Mamba-2 with the groups' B and C made alike: one group then says the same as two, and one norm the same as
// transformers' whole one.
test('Mamba-2 of one group is transformers’ to the last id', async () => {
  const source = await read('mamba2')
  const one = { ...source, config: { ...source.config, n_groups: 1 }, weights: firstGroupOnly(source.weights) }
  const theirs = await load(await written('one-group', one), { dtype: 'float32' })
  const ours = await load(await written('one-group-ssm', rewritten(one, 16)), { dtype: 'float32' })
  const { inputIds } = await golden('mamba2')
  expect(difference(await take(ours.forward(inputIds)), await take(theirs.forward(inputIds)))).toBe(0)
  const options = { maxNewTokens: 24, ignoreEos: true }
  const [a, b] = await Promise.all([theirs, ours].map((m) => collect(m.generate(inputIds[0]!, options))))
  expect(a).toEqual(b)
  theirs.dispose()
  ours.dispose()
})

// in_proj's rows are z (128), x (128), B (2 × 32), C (2 × 32), dt (4); the convolution has the middle three.
function firstGroupOnly(weights: Record<string, StoredTensor>): Record<string, StoredTensor> {
  const kept = (rows: readonly [number, number][], { shape, data }: StoredTensor): StoredTensor => {
    const width = shape.slice(1).reduce((a, n) => a * n, 1)
    const parts = rows.map(([from, to]) => (data as Float32Array).subarray(from * width, to * width))
    const all = Float32Array.from(parts.flatMap((part) => [...part]))
    return { dtype: 'float32', shape: [all.length / width, ...shape.slice(1)], data: all }
  }
  const entries = Object.entries(weights).map(([name, t]): [string, StoredTensor] => {
    if (name.endsWith('in_proj.weight')) return [name, kept([[0, 288], [320, 352], [384, 388]], t)] // prettier-ignore
    if (name.includes('.conv1d.')) return [name, kept([[0, 160], [192, 224]], t)] // prettier-ignore
    return [name, t]
  })
  return Object.fromEntries(entries)
}

describe('what of mamba_ssm is not supported, or makes no sense', () => {
  const cases: [string, (config: Values) => Values, string, RegExp][] = [
    ['an MLP between the mixers', (c) => ({ ...c, d_intermediate: 256 }), 'ERR_UNSUPPORTED', /d_intermediate: expected 0, .* got 256$/],
    ['layers of attention', (c) => ({ ...c, attn_layer_idx: [1] }), 'ERR_UNSUPPORTED', /attn_layer_idx: expected no layers of attention, got /],
    ['LayerNorm', (c) => ({ ...c, rms_norm: false }), 'ERR_UNSUPPORTED', /rms_norm: expected true, .* got false$/],
    ['another layer', (c) => ({ ...c, ssm_cfg: { layer: 'Mamba3' } }), 'ERR_UNSUPPORTED', /ssm_cfg\.layer: expected 'Mamba1' or 'Mamba2', got 'Mamba3'$/],
    ['an option of another layer', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), dt_rank: 4 } }), 'ERR_UNSUPPORTED', /ssm_cfg: expected options of Mamba2 \(d_state, .*\), got dt_rank$/],
    ['an MLP beside the scan', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), d_ssm: 64 } }), 'ERR_UNSUPPORTED', /d_ssm: expected 128, .* got 64$/],
    ['options that are none', (c) => ({ ...c, ssm_cfg: [] }), 'ERR_CHECKPOINT', /ssm_cfg: expected an object, got \[\]$/],
    ['a part of a head', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), headdim: 48 } }), 'ERR_CHECKPOINT', /headdim: expected heads of 48 that are 128 channels together, got 2$/],
    ['groups that heads do not fill', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), ngroups: 3 } }), 'ERR_CHECKPOINT', /ngroups: expected a divisor of 4 heads, got 3$/],
    ['a size in words', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), d_state: 'all' } }), 'ERR_CHECKPOINT', /ssm_cfg\.d_state: expected a whole number from 1 to \d+, got "all"$/],
    ['limits the wrong way round', (c) => ({ ...c, ssm_cfg: { ...(c.ssm_cfg as Values), dt_limit: [1, 0] } }), 'ERR_CHECKPOINT', /ssm_cfg\.dt_limit: expected two numbers, the lower first, got \[1,0\]$/],
    ['a table without its padding', (c) => ({ ...c, pad_vocab_size_multiple: 8 }), 'ERR_CHECKPOINT', /embedding\.weight: expected shape \(264, 64\), got \(257, 64\)/],
  ] // prettier-ignore
  test.each(cases)('%s', async (name, change, code, message) => {
    const before = liveTensors()
    const { config, weights } = rewritten(await read('mamba2'), 1)
    const error = await failure(load(await written(name, { config: change(config), weights })))
    expect(error.message).toMatch(message)
    expect(error).toMatchObject({ code, name: 'SeqmixError' })
    expect(liveTensors()).toBe(before)
  })
})

test.each(['Infinity', '{"__float__": "Infinity"}', '1e999'])('steps up to infinity, written %s', async (infinity) => {
  const { config, weights } = await read('mamba2')
  const text = JSON.stringify({ ...config, time_step_limit: 'here', note: 'NaN, "Infinity"' })
  const dir = join(folder, `infinity-${infinity.length}`)
  mkdirSync(dir)
  writeFileSync(join(dir, 'config.json'), text.replace('"here"', `[0.0, ${infinity}]`))
  await saveSafetensors(join(dir, 'model.safetensors'), weights)
  const model = await load(dir)
  expect(model.config.time_step_limit).toEqual([0, Infinity])
  expect(model.config.note).toBe('NaN, "Infinity"')
  model.dispose()
})

test('limited steps are limited in a model too', async () => {
  const source = await read('mamba2')
  const limited = { ...source.config, time_step_limit: [0.01, 0.2] }
  const model = await load(await written('limited', { ...source, config: limited }), { dtype: 'float32' })
  const read2 = await readModel(directory('mamba2'))
  const ids = [[1, 2, 3, 4, 5, 6, 7]]
  const want = reference({ ...read2, config: limited }, ids)
  expect(difference(await take(model.forward(ids)), want.data)).toBeLessThan(2e-5)
  model.dispose()
})
