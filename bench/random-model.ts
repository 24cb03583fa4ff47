// Checkpoints of random weights, as large as they come in training: nothing overflows, and nothing is zero.
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type StoredTensor, saveSafetensors } from '../lib/checkpoint/index.js'
import { type DType, device, tensor } from '../lib/index.js'
import { values } from './inputs.js'

export interface MambaShape {
  readonly hidden: number
  readonly layers: number
  readonly vocabulary: number
}

/** The shape of mamba-130m, with a vocabulary small enough not to be most of the work. */
export const mamba130m: MambaShape = { hidden: 768, layers: 24, vocabulary: 4096 }

/** The sizes that follow from a model's width. */
export function mambaSizes({ hidden }: MambaShape) {
  return { channels: 2 * hidden, states: 16, width: 4, rank: Math.ceil(hidden / 16) }
}

/** Matrices in `weights`, everything else in float32, under the names of a Hugging Face checkpoint. */
export function mambaTensors(shape: MambaShape, weights: DType): Record<string, StoredTensor> {
  const { hidden, layers, vocabulary } = shape
  const { channels: d, states: n, width: w, rank } = mambaSizes(shape)
  const tensors: Record<string, StoredTensor> = {}
  const put = (name: string, size: number[], from: number, to: number, dtype: DType = 'float32'): void => {
    const data = values(
      size.reduce((product, k) => product * k, 1),
      from,
      to,
    )
    tensors[`backbone.${name}`] = dtype === 'float32' ? { dtype, shape: size, data } : converted(data, size, dtype)
  }
  const matrix = (name: string, out: number, into: number): void => {
    const scale = Math.sqrt(3 / into)
    put(name, [out, into], -scale, scale, weights)
  }
  put('embeddings.weight', [vocabulary, hidden], -0.1, 0.1, weights)
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
  return tensors
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
  const { channels, states, width, rank } = mambaSizes(shape)
  await saveSafetensors(path.join(dir, 'model.safetensors'), mambaTensors(shape, weights))
  const config = {
    model_type: 'mamba',
    hidden_size: shape.hidden,
    intermediate_size: channels,
    state_size: states,
    conv_kernel: width,
    time_step_rank: rank,
    num_hidden_layers: shape.layers,
    vocab_size: shape.vocabulary,
    tie_word_embeddings: true,
  }
  await writeFile(path.join(dir, 'config.json'), JSON.stringify(config))
}
