// Checkpoints of random weights, as large as they come in training: nothing overflows, and nothing is zero.
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type StoredTensor, saveSafetensors } from '../lib/checkpoint/index.js'
import { type DType, device, tensor } from '../lib/index.js'
import { values } from './inputs.js'

export interface MambaShape {
  readonly kind: 'mamba' | 'mamba2'
  readonly hidden: number
  readonly layers: number
  readonly vocabulary: number
}

/** The shapes of mamba-130m and mamba2-130m, with a vocabulary small enough not to be most of the work. */
export const mamba130m: MambaShape = { kind: 'mamba', hidden: 768, layers: 24, vocabulary: 4096 }
export const mamba2_130m: MambaShape = { kind: 'mamba2', hidden: 768, layers: 24, vocabulary: 4096 }

/** The sizes that follow from a model's width: of the first kind `rank`, of the second heads and groups. */
export function mambaSizes({ kind, hidden }: MambaShape) {
  const channels = 2 * hidden
  return {
    channels,
    states: kind === 'mamba' ? 16 : 128,
    width: 4,
    rank: Math.ceil(hidden / 16),
    headDim: 64,
    heads: channels / 64,
    groups: 1,
  }
}

/** Matrices in `weights`, everything else in float32, under the names of a Hugging Face checkpoint. */
export function mambaTensors(shape: MambaShape, weights: DType): Record<string, StoredTensor> {
  const { hidden, layers, vocabulary } = shape
  const tensors: Record<string, StoredTensor> = {}
  const put: Put = (name, size, from, to, dtype = 'float32') => {
    const data = values(
      size.reduce((product, k) => product * k, 1),
      from,
      to,
    )
    tensors[`backbone.${name}`] = dtype === 'float32' ? { dtype, shape: size, data } : converted(data, size, dtype)
  }
  put('embeddings.weight', [vocabulary, hidden], -0.1, 0.1, weights)
  put('norm_f.weight', [hidden], 0.9, 1.1)
  for (let i = 0; i < layers; i++) {
    put(`layers.${i}.norm.weight`, [hidden], 0.9, 1.1)
    mixers[shape.kind](shape, weights, (name, ...how) => put(`layers.${i}.mixer.${name}`, ...how))
  }
  return tensors
}

type Put = (name: string, size: number[], from: number, to: number, dtype?: DType) => void

// What one mixer of each kind has.
const mixers: Record<MambaShape['kind'], (shape: MambaShape, weights: DType, put: Put) => void> = {
  mamba(shape, weights, put) {
    const { channels: d, states: n, width: w, rank } = mambaSizes(shape)
    const matrix = matrices(put, weights)
    matrix('in_proj.weight', 2 * d, shape.hidden)
    put('conv1d.weight', [d, 1, w], -0.5, 0.5)
    put('conv1d.bias', [d], -0.5, 0.5)
    matrix('x_proj.weight', rank + 2 * n, d)
    matrix('dt_proj.weight', d, rank)
    put('dt_proj.bias', [d], -6, -2)
    put('A_log', [d, n], 0, Math.log(n))
    put('D', [d], 0.9, 1.1)
    matrix('out_proj.weight', shape.hidden, d)
  },
  mamba2(shape, weights, put) {
    const { channels: d, states: n, width: w, heads, groups } = mambaSizes(shape)
    const convolved = d + 2 * groups * n
    const matrix = matrices(put, weights)
    matrix('in_proj.weight', d + convolved + heads, shape.hidden)
    put('conv1d.weight', [convolved, 1, w], -0.5, 0.5)
    put('conv1d.bias', [convolved], -0.5, 0.5)
    put('dt_bias', [heads], -6, -2)
    put('A_log', [heads], 0, Math.log(16))
    put('D', [heads], 0.9, 1.1)
    put('norm.weight', [d], 0.9, 1.1)
    matrix('out_proj.weight', shape.hidden, d)
  },
}

function matrices(put: Put, weights: DType): (name: string, out: number, into: number) => void {
  return (name, out, into) => put(name, [out, into], -Math.sqrt(3 / into), Math.sqrt(3 / into), weights)
}

function converted(data: Float32Array, shape: number[], dtype: DType): StoredTensor {
  const wide = tensor(data, { shape, device: device('cpu') })
  const narrow = wide.to(dtype)
  const stored = { dtype, shape, data: narrow.dataSync() }
  wide.dispose()
  narrow.dispose()
  return stored
}

/** A Hugging Face directory of such a model. */
export async function writeMamba(dir: string, shape: MambaShape, weights: DType): Promise<void> {
  const { channels, states, width, rank, headDim, heads, groups } = mambaSizes(shape)
  await saveSafetensors(path.join(dir, 'model.safetensors'), mambaTensors(shape, weights))
  const config = {
    model_type: shape.kind,
    hidden_size: shape.hidden,
    state_size: states,
    conv_kernel: width,
    num_hidden_layers: shape.layers,
    vocab_size: shape.vocabulary,
    tie_word_embeddings: true,
    ...(shape.kind === 'mamba'
      ? { intermediate_size: channels, time_step_rank: rank }
      : { expand: channels / shape.hidden, head_dim: headDim, num_heads: heads, n_groups: groups }),
  }
  await writeFile(path.join(dir, 'config.json'), JSON.stringify(config))
}
