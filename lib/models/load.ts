// A model from a Hugging Face directory: config.json says what it is, its architecture which tensors it wants; these
// go to the device one after the other, so that host memory holds little more than the largest of them.

import { isSignal, type Signal } from './signal.js'
import { damaged } from '../checkpoint/format.js'
import { openCheckpoint, type Checkpoint, type StoredTensor } from '../checkpoint/index.js'
import { SeqmixError, shown, typeError } from '../errors.js'
import { floatOption } from '../dtype.js'
import {
  device as findDevice,
  scope,
  tensor,
  Tensor,
  type Device,
  type FloatDType,
  type TensorInput,
} from '../index.js'
import type { StateDict } from '../layers/index.js'
import { readConfig, type ConfigFile } from './config.js'
import { decoder } from './decoder.js'
import { isMambaSsm } from './mamba-ssm-config.js'
import { mamba, mambaSsm } from './mamba.js'
import { LanguageModel } from './model.js'
import { checkCacheOptions, type Architecture, type CacheOptions, type WantedTensor } from './network.js'
import { checkOptions } from '../options.js'
import { loadTokenizer } from './tokenizer.js'

const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  mamba,
  falcon_mamba: mamba,
  mamba2: mamba,
  llama: decoder,
  mistral: decoder,
  gemma2: decoder,
}

/** How far loading is. */
export interface LoadProgress {
  /** the tensor that has just gone to the device */
  readonly name: string
  readonly tensors: number
  readonly totalTensors: number
  /** bytes read from the checkpoint */
  readonly bytes: number
  readonly totalBytes: number
}

export interface LoadOptions {
  /** where the model goes; by default the best device */
  device?: Device | string
  /**
   * What the model computes in, and what its logits come in: `float32`, `float16` or `bfloat16`. By default float32 on the
   * CPU, and on CUDA the dtype that most of its weights have.
   */
  dtype?: FloatDType
  /**
   * What its matrices are held in; by default what the checkpoint stores. Weights may have another dtype than what is computed
   * in: bfloat16 matrices take half of float32's memory, and half the time where reading them is what takes time. What is
   * small (norms, biases, filters, A_log, D) stays as it is stored.
   */
  weights?: FloatDType
  /** what its contexts are kept in, where newCache or generate is not told otherwise */
  cache?: CacheOptions
  /** called after each tensor */
  onProgress?: (progress: LoadProgress) => void
  /** an abort makes load throw `signal.reason` */
  signal?: Signal
}

/**
 * Loads a language model. Sums, the states of its scans and (where config.json has residual_in_fp32, the default) what its
 * layers add up to are float32, whatever it computes in.
 *
 * @param dir a directory with config.json and model.safetensors or its sharded form, of model_type mamba,
 *   falcon_mamba, mamba2, llama, mistral or gemma2, or in the form in which mamba_ssm writes its checkpoints of Mamba and Mamba-2
 * @throws SeqmixError ERR_CHECKPOINT for a directory that is incomplete or damaged, naming file and tensor;
 *   ERR_UNSUPPORTED for a model_type that this version does not have, or weights of integers
 */
export async function load(dir: string, options: LoadOptions = {}): Promise<LanguageModel> {
  checkOptions(options, ['device', 'dtype', 'weights', 'cache', 'onProgress', 'signal'])
  if (options.cache !== undefined) checkCacheOptions(options.cache)
  const { onProgress, signal } = options
  const dtype = floatOption(options.dtype)
  const weights = floatOption(options.weights, 'weights')
  if (typeof dir !== 'string') throw typeError('ERR_OPTION', 'dir', "a directory's path", shown(dir))
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw typeError('ERR_OPTION', 'onProgress', 'a function', shown(onProgress))
  }
  if (signal !== undefined && !isSignal(signal))
    throw typeError('ERR_OPTION', 'signal', 'an AbortSignal', shown(signal))
  const device = findDevice(options.device)
  signal?.throwIfAborted()
  const config = await readConfig(dir, 'config.json', true)
  const architecture = architectureOf(config)
  const generation = await readConfig(dir, 'generation_config.json', false)
  const endIds = generation?.ids('eos_token_id') ?? config.ids('eos_token_id') ?? []
  const tokenizer = await loadTokenizer(dir)
  const checkpoint = await openCheckpoint(dir)
  const state: Record<string, TensorInput> = {}
  try {
    const found = findTensors(checkpoint, architecture.wanted(config))
    const report = reporter(checkpoint, found, onProgress)
    for (const { name, stored, wanted } of found) {
      signal?.throwIfAborted()
      const t = wanted.host
        ? { ...(await checkpoint.readFloat32(stored)), dtype: 'float32' as const }
        : await checkpoint.readFloat(stored)
      state[name] = wanted.host ? { type: t.dtype, data: t.data, dims: t.shape } : placed(t, device, weights)
      report(stored)
    }
    signal?.throwIfAborted()
    const computed = dtype ?? (device.type === 'cpu' ? 'float32' : commonest(state))
    // A build that fails halfway leaves nothing: the scope frees what it had taken.
    const network = scope(() => architecture.build(config, state as StateDict, device, computed))
    return new LanguageModel(network, config.values, endIds, tokenizer, options.cache)
  } finally {
    for (const t of Object.values(state)) if (t instanceof Tensor) t.dispose()
    await checkpoint.close()
  }
}

function architectureOf(config: ConfigFile): Architecture {
  if (isMambaSsm(config)) return mambaSsm
  const type = config.text('model_type')
  const architecture = Object.hasOwn(ARCHITECTURES, type) ? ARCHITECTURES[type] : undefined
  if (architecture) return architecture
  const known = Object.keys(ARCHITECTURES).join(', ')
  throw new SeqmixError(
    'ERR_UNSUPPORTED',
    `${config.file}: model_type '${type}' is not supported; supported are ${known}`,
  )
}

// A weight on the device: a matrix in the dtype asked for, all else as stored.
function placed({ dtype, shape, data }: StoredTensor, device: Device, matrices: FloatDType | undefined): Tensor {
  const stored = tensor(data, { shape, dtype, device })
  if (matrices === undefined || shape.length !== 2) return stored
  try {
    return stored.to(matrices)
  } finally {
    stored.dispose()
  }
}

// The dtype of most weights.
function commonest(state: Readonly<Record<string, TensorInput>>): FloatDType {
  const counts = new Map<FloatDType, number>()
  for (const t of Object.values(state)) {
    if (Tensor.isTensor(t)) counts.set(t.dtype as FloatDType, (counts.get(t.dtype as FloatDType) ?? 0) + t.size)
  }
  return [...counts].reduce((best, next) => (next[1] > best[1] ? next : best), ['float32', 0])[0]
}

interface FoundTensor {
  readonly name: string
  /** its name in the checkpoint */
  readonly stored: string
  readonly wanted: WantedTensor
}

// Matches what the checkpoint has with what the architecture wants; all that is wrong goes into one error.
function findTensors(checkpoint: Checkpoint, wanted: Record<string, WantedTensor>): FoundTensor[] {
  const left = new Set(checkpoint.names())
  const found: FoundTensor[] = []
  const missing: string[] = []
  const misshaped: string[] = []
  for (const [name, want] of Object.entries(wanted)) {
    const stored = want.alias !== undefined && !left.has(name) ? want.alias : name
    const there = left.delete(stored)
    if (want.unused) continue
    if (!there) {
      missing.push(name)
      continue
    }
    const { shape } = checkpoint.info(stored)
    if (shape.join() !== want.shape.join()) {
      misshaped.push(`${stored}: expected shape (${want.shape.join(', ')}), got (${shape.join(', ')})`)
    }
    found.push({ name, stored, wanted: want })
  }
  const wrong = [
    ...(missing.length > 0 ? [`missing: ${list(missing)}`] : []),
    ...(left.size > 0 ? [`unexpected: ${list([...left])}`] : []),
    ...(misshaped.length > 0 ? [list(misshaped, '; ')] : []),
  ]
  if (wrong.length > 0)
    throw damaged(checkpoint.path, `not the tensors that config.json calls for: ${wrong.join('; ')}`)
  return found
}

function list(items: string[], separator = ', '): string {
  const shown = items.slice(0, 8).join(separator)
  return items.length > 8 ? `${shown} and ${items.length - 8} more` : shown
}

function reporter(
  checkpoint: Checkpoint,
  found: FoundTensor[],
  onProgress: LoadOptions['onProgress'],
): (stored: string) => void {
  const totalBytes = found.reduce((n, { stored }) => n + checkpoint.info(stored).bytes, 0)
  let tensors = 0
  let bytes = 0
  return (name) => {
    tensors += 1
    bytes += checkpoint.info(name).bytes
    onProgress?.({ name, tensors, totalTensors: found.length, bytes, totalBytes })
  }
}
