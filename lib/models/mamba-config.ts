// What the config.json of a Mamba or Mamba-2 says, in transformers' form: `mamba`, `falcon_mamba`, `mamba2`. What is not in it
// has the default that its architecture gives it. mamba-ssm-config.ts reads the form of mamba_ssm.

import { damaged } from '../checkpoint/format.js'
import { SeqmixError } from '../errors.js'
import type { Device } from '../index.js'
import { Mamba, Mamba2, type MambaConfig, type Mamba2Config, type StateDict } from '../layers/index.js'
import { mambaShapes } from '../layers/mamba.js'
import { mamba2Shapes } from '../layers/mamba2.js'
import { checkActivation } from '../layers/ssm.js'
import type { ConfigFile } from './config.js'

/** The layers of a model, which are all alike. */
export interface Mixer {
  /** names and stored shapes of a layer's tensors */
  readonly shapes: Readonly<Record<string, readonly number[]>>
  make(state: StateDict, device: Device): Mamba | Mamba2
}

/** A Mamba or Mamba-2 model, however it was written down. */
export interface MambaModelConfig {
  readonly mixer: Mixer
  readonly hidden: number
  readonly vocabulary: number
  /** rows of the embedding's table, which may be more than the vocabulary */
  readonly rows: number
  readonly layers: number
  readonly eps: number
  /** whether the head is the embedding's table */
  readonly tied: boolean
  readonly residualInFp32: boolean
}

export function mambaMixer(config: MambaConfig): Mixer {
  return { shapes: mambaShapes(config), make: (state, device) => new Mamba(config, state, { device }) }
}

export function mamba2Mixer(config: Mamba2Config): Mixer {
  return { shapes: mamba2Shapes(config), make: (state, device) => new Mamba2(config, state, { device }) }
}

/** Of `mamba`, `falcon_mamba` and `mamba2`. */
export function readMambaConfig(config: ConfigFile): MambaModelConfig {
  checkActivation(config.text('hidden_act', 'silu'))
  const second = config.values.model_type === 'mamba2'
  const hidden = config.count('hidden_size')
  const vocabulary = config.count('vocab_size')
  return {
    mixer: second ? mamba2Mixer(readMamba2(config, hidden)) : mambaMixer(readMamba(config, hidden)),
    hidden,
    vocabulary,
    rows: vocabulary,
    layers: config.count('num_hidden_layers', undefined, 10_000),
    eps: config.positive('layer_norm_epsilon', 1e-5),
    tied: config.flag('tie_word_embeddings', !second),
    residualInFp32: config.flag('residual_in_fp32', true),
  }
}

function readMamba(config: ConfigFile, hidden: number): MambaConfig {
  const auto = (config.values.time_step_rank ?? 'auto') === 'auto'
  const mixer: MambaConfig = {
    hidden_size: hidden,
    intermediate_size: config.count('intermediate_size', Math.trunc(config.positive('expand', 2) * hidden)),
    state_size: config.count('state_size', 16),
    conv_kernel: config.count('conv_kernel', 4),
    time_step_rank: auto ? 'auto' : config.count('time_step_rank'),
    use_bias: config.flag('use_bias', false),
    use_conv_bias: config.flag('use_conv_bias', true),
  }
  const falcon = config.values.model_type === 'falcon_mamba'
  return falcon ? { ...mixer, mixer_rms_eps: config.positive('mixer_rms_eps', 1e-6) } : mixer
}

// transformers norms all channels together, whatever the number of groups, and gates before it.
function readMamba2(config: ConfigFile, hidden: number): Mamba2Config {
  if (!config.flag('rms_norm', true)) throw unsupported(config, 'rms_norm: expected true, got false')
  return fittingMamba2(config, ['num_heads', 'n_groups'], {
    hidden_size: hidden,
    intermediate_size: Math.trunc(config.positive('expand', 2) * hidden),
    num_heads: config.count('num_heads', 128),
    head_dim: config.count('head_dim', 64),
    n_groups: config.count('n_groups', 8),
    state_size: config.count('state_size', 128),
    conv_kernel: config.count('conv_kernel', 4),
    use_bias: config.flag('use_bias', false),
    use_conv_bias: config.flag('use_conv_bias', true),
    time_step_limit: config.range('time_step_limit', [0, Infinity]),
    layer_norm_epsilon: config.positive('layer_norm_epsilon', 1e-5),
  })
}

/** Checks what a layer would refuse of its sizes, under the names `heads` and `groups` have in the file. */
export function fittingMamba2(
  config: ConfigFile,
  [heads, groups]: readonly [string, string],
  mixer: Mamba2Config & Required<Pick<Mamba2Config, 'intermediate_size' | 'num_heads' | 'head_dim' | 'n_groups'>>,
): Mamba2Config {
  const { intermediate_size: channels, num_heads: h, head_dim: p, n_groups: g } = mixer
  if (h * p !== channels)
    throw damaged(config.file, `${heads}: expected heads of ${p} that are ${channels} channels together, got ${h}`)
  if (h % g !== 0) throw damaged(config.file, `${groups}: expected a divisor of ${h} heads, got ${g}`)
  return mixer
}

export function unsupported(config: ConfigFile, message: string): SeqmixError {
  return new SeqmixError('ERR_UNSUPPORTED', `${config.file}: ${message}`)
}
