// What the config.json says that mamba_ssm itself writes beside its checkpoints (state-spaces/mamba-130m, mamba2-130m …):
// `d_model`, `n_layer`, `ssm_cfg` with the options of a layer under the names of its constructor, and no model_type.

import { shown } from '../errors.js'
import type { Mamba2Config, MambaConfig } from '../layers/index.js'
import type { ConfigFile } from './config.js'
import { fittingMamba2, mamba2Mixer, mambaMixer, unsupported, type MambaModelConfig } from './mamba-config.js'

/** Whether a config.json has this form. */
export function isMambaSsm({ values }: ConfigFile): boolean {
  return values.d_model !== undefined && values.n_layer !== undefined && values.hidden_size === undefined
}

// How a layer was initialised and which of its kernels was used changes nothing afterwards.
const IDLE = ['dt_min', 'dt_max', 'dt_init_floor', 'device', 'dtype']
const OPTIONS = {
  Mamba1: [
    'd_state',
    'd_conv',
    'expand',
    'dt_rank',
    'conv_bias',
    'bias',
    'dt_init',
    'dt_scale',
    'use_fast_path',
    ...IDLE,
  ],
  Mamba2: [
    ...['d_state', 'd_conv', 'expand', 'headdim', 'd_ssm', 'ngroups', 'D_has_hdim', 'rmsnorm', 'norm_before_gate'],
    ...['dt_limit', 'bias', 'conv_bias', 'conv_init', 'A_init_range', 'chunk_size', 'use_mem_eff_path', ...IDLE],
  ],
} as const

/** Of the form that mamba_ssm writes. */
export function readMambaSsmConfig(config: ConfigFile): MambaModelConfig {
  const hidden = config.count('d_model')
  const only = (name: string, good: boolean, expected: string): void => {
    if (!good) throw unsupported(config, `${name}: expected ${expected}, got ${shown(config.values[name])}`)
  }
  const { d_intermediate = 0, attn_layer_idx = [] } = config.values
  only('d_intermediate', d_intermediate === 0, '0, since layers between the mixers are not supported')
  only('attn_layer_idx', Array.isArray(attn_layer_idx) && attn_layer_idx.length === 0, 'no layers of attention')
  only('rms_norm', config.flag('rms_norm', true), 'true, since LayerNorm is not supported')
  const vocabulary = config.count('vocab_size')
  const multiple = config.count('pad_vocab_size_multiple', 8)
  const ssm = config.part('ssm_cfg')
  const layer = ssm.text('layer', 'Mamba1')
  if (layer !== 'Mamba1' && layer !== 'Mamba2')
    throw unsupported(config, `ssm_cfg.layer: expected 'Mamba1' or 'Mamba2', got ${shown(layer)}`)
  for (const name of Object.keys(ssm.values)) {
    const known: readonly string[] = OPTIONS[layer]
    if (name !== 'layer' && !known.includes(name))
      throw unsupported(config, `ssm_cfg: expected options of ${layer} (${known.join(', ')}), got ${name}`)
  }
  return {
    mixer: layer === 'Mamba1' ? mambaMixer(readMamba(ssm, hidden)) : mamba2Mixer(readMamba2(ssm, hidden)),
    hidden,
    vocabulary,
    rows: Math.ceil(vocabulary / multiple) * multiple,
    layers: config.count('n_layer', undefined, 10_000),
    eps: config.positive('norm_epsilon', 1e-5),
    tied: config.flag('tie_embeddings', true),
    residualInFp32: config.flag('residual_in_fp32', true),
  }
}

function readMamba(ssm: ConfigFile, hidden: number): MambaConfig {
  const auto = (ssm.values.dt_rank ?? 'auto') === 'auto'
  return {
    hidden_size: hidden,
    intermediate_size: Math.trunc(ssm.positive('expand', 2) * hidden),
    state_size: ssm.count('d_state', 16),
    conv_kernel: ssm.count('d_conv', 4),
    time_step_rank: auto ? 'auto' : ssm.count('dt_rank'),
    use_bias: ssm.flag('bias', false),
    use_conv_bias: ssm.flag('conv_bias', true),
  }
}

// The norm is one of each group's channels, where transformers norms all of them together.
function readMamba2(ssm: ConfigFile, hidden: number): Mamba2Config {
  const channels = Math.trunc(ssm.positive('expand', 2) * hidden)
  const inScan = ssm.count('d_ssm', channels)
  if (inScan !== channels)
    throw unsupported(
      ssm,
      `d_ssm: expected ${channels}, all channels, since an MLP beside the scan is not supported, got ${inScan}`,
    )
  const headDim = ssm.count('headdim', 64)
  const groups = ssm.count('ngroups', 1)
  return fittingMamba2(ssm, ['headdim', 'ngroups'], {
    hidden_size: hidden,
    intermediate_size: channels,
    num_heads: Math.floor(channels / headDim),
    head_dim: headDim,
    n_groups: groups,
    state_size: ssm.count('d_state', 128),
    conv_kernel: ssm.count('d_conv', 4),
    use_bias: ssm.flag('bias', false),
    use_conv_bias: ssm.flag('conv_bias', true),
    time_step_limit: ssm.range('dt_limit', [0, Infinity]),
    rms_norm: ssm.flag('rmsnorm', true),
    norm_group_size: channels / groups,
    norm_before_gate: ssm.flag('norm_before_gate', false),
    D_has_hdim: ssm.flag('D_has_hdim', false),
  })
}
