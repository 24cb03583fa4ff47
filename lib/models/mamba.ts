// The language models `mamba` and `falcon_mamba`: embedding, then for each layer h ← h + mixer(norm(h)), a last norm
// and the head. With residual_in_fp32, which is usual, h is float32 whatever the layers compute in.

import { embedding, linear, scope, type Device, type FloatDType, type Tensor } from '../index.js'
import type { MambaCache } from '../layers/index.js'
import { Mamba, RMSNorm, type LayerCache, type MambaConfig, type StateDict } from '../layers/index.js'
import { mambaShapes, mambaSizes } from '../layers/mamba.js'
import { checkActivation } from '../layers/ssm.js'
import { below, bytesIn, Weights } from '../layers/state.js'
import type { ConfigFile } from './config.js'
import type { Architecture, CacheOptions, Network, WantedTensor } from './network.js'

interface MambaModelConfig {
  readonly mixer: MambaConfig
  readonly vocabulary: number
  readonly layers: number
  readonly eps: number
  readonly tied: boolean
  readonly residualInFp32: boolean
}

// What is not in a config.json has the default that its architecture gives it.
function readMambaConfig(config: ConfigFile): MambaModelConfig {
  const hidden = config.count('hidden_size')
  const auto = (config.values.time_step_rank ?? 'auto') === 'auto'
  const mixer: MambaConfig = {
    hidden_size: hidden,
    intermediate_size: config.count('intermediate_size', Math.trunc(config.positive('expand', 2) * hidden)),
    state_size: config.count('state_size', 16),
    conv_kernel: config.count('conv_kernel', 4),
    time_step_rank: auto ? 'auto' : config.count('time_step_rank'),
    use_bias: config.flag('use_bias', false),
    use_conv_bias: config.flag('use_conv_bias', true),
    hidden_act: config.text('hidden_act', 'silu'),
  }
  checkActivation(mixer.hidden_act)
  const falcon = config.values.model_type === 'falcon_mamba'
  return {
    mixer: falcon ? { ...mixer, mixer_rms_eps: config.positive('mixer_rms_eps', 1e-6) } : mixer,
    vocabulary: config.count('vocab_size'),
    layers: config.count('num_hidden_layers', undefined, 10_000),
    eps: config.positive('layer_norm_epsilon', 1e-5),
    tied: config.flag('tie_word_embeddings', true),
    residualInFp32: config.flag('residual_in_fp32', true),
  }
}

const EMBEDDINGS = 'backbone.embeddings.weight'

function wantedTensors({ mixer, vocabulary, layers, tied }: MambaModelConfig): Record<string, WantedTensor> {
  const { hidden } = mambaSizes(mixer)
  const wanted: Record<string, WantedTensor> = {
    [EMBEDDINGS]: { shape: [vocabulary, hidden], alias: 'backbone.embedding.weight' },
    'backbone.norm_f.weight': { shape: [hidden] },
    'lm_head.weight': { shape: [vocabulary, hidden], unused: tied },
  }
  const shapes = Object.entries(mambaShapes(mixer))
  for (let i = 0; i < layers; i++) {
    wanted[`backbone.layers.${i}.norm.weight`] = { shape: [hidden] }
    for (const [name, shape] of shapes) wanted[`backbone.layers.${i}.mixer.${name}`] = { shape, host: name === 'A_log' }
  }
  return wanted
}

class MambaNetwork implements Network {
  readonly vocabulary: number
  readonly parameters: number
  readonly bytes: number
  private readonly weights: Weights
  private readonly embeddings: Tensor
  private readonly headWeight: Tensor
  private readonly normF: RMSNorm
  private readonly layers: { norm: RMSNorm; mixer: Mamba }[] = []
  private readonly residualInFp32: boolean

  constructor(
    config: MambaModelConfig,
    state: StateDict,
    readonly device: Device,
    readonly dtype: FloatDType,
  ) {
    const { hidden } = mambaSizes(config.mixer)
    this.vocabulary = config.vocabulary
    this.residualInFp32 = config.residualInFp32
    const norm = (prefix: string) =>
      new RMSNorm({ hidden_size: hidden, layer_norm_epsilon: config.eps }, below(state, prefix), { device })
    const w = (this.weights = new Weights('model', state, device))
    this.embeddings = w.take(EMBEDDINGS, [config.vocabulary, hidden])
    this.headWeight = config.tied ? this.embeddings : w.take('lm_head.weight', [config.vocabulary, hidden])
    this.normF = norm('backbone.norm_f.')
    for (let i = 0; i < config.layers; i++) {
      const prefix = `backbone.layers.${i}.`
      const mixer = new Mamba(config.mixer, below(state, `${prefix}mixer.`), { device })
      this.layers.push({ norm: norm(`${prefix}norm.`), mixer })
    }
    this.parameters = this.tensors().reduce((n, t) => n + t.size, 0)
    this.bytes = bytesIn(this.tensors())
  }

  body(ids: Tensor, caches?: readonly LayerCache[]): Tensor {
    return this.through(ids, (mixer, x, i) => mixer.forward(x, caches?.[i] as MambaCache | undefined))
  }

  step(ids: Tensor, caches: readonly LayerCache[]): Tensor {
    return this.through(ids, (mixer, x, i) => mixer.step(x, caches[i] as MambaCache))
  }

  head(hidden: Tensor): Tensor {
    return linear(hidden, this.headWeight)
  }

  newCaches(batch: number, { dtype = 'float32' }: CacheOptions): LayerCache[] {
    return this.layers.map(({ mixer }) => mixer.newCache(batch, { dtype }))
  }

  tensors(): Tensor[] {
    const layers = this.layers.flatMap(({ norm, mixer }) => [...norm.tensors(), ...mixer.tensors()])
    return [...this.weights.tensors(), ...this.normF.tensors(), ...layers]
  }

  dispose(): void {
    for (const t of this.tensors()) t.dispose()
  }

  // Through all layers and the last norm. A layer's output is added to the residual stream by the norm that follows, in
  // the same pass. What a layer leaves is freed at once: a scope alone would hold all of it until the last layer is done.
  private through(ids: Tensor, mix: (mixer: Mamba, x: Tensor, i: number) => Tensor): Tensor {
    const { layers, normF, dtype, residualInFp32 } = this
    return scope(() => {
      let residual = embedding(ids, this.embeddings, { dtype })
      let x = (layers[0]?.norm ?? normF).forward(residual)
      layers.forEach(({ mixer }, i) => {
        const norm = layers[i + 1]?.norm ?? normF
        const y = mix(mixer, x, i)
        const next = norm.forward(y, { residual, residualInFp32 })
        for (const t of [x, y, residual]) t.dispose()
        x = next.out
        residual = next.residual
      })
      return x
    })
  }
}

/** `mamba` and `falcon_mamba`. */
export const mamba: Architecture = {
  wanted: (config) => wantedTensors(readMambaConfig(config)),
  build: (config, state, device, dtype) => new MambaNetwork(readMambaConfig(config), state, device, dtype),
}
