// The language models `mamba`, `falcon_mamba` and `mamba2`, and mamba_ssm's own checkpoints of the first and last: embedding,
// then for each layer h ← h + mixer(norm(h)), a last norm and the head. With residual_in_fp32, which is usual, h is float32
// whatever the layers compute in.

import { embedding, linear, scope, type Device, type FloatDType, type Tensor } from '../index.js'
import { RMSNorm, type LayerCache, type StateDict } from '../layers/index.js'
import type { RecurrentCache } from '../layers/recurrent-cache.js'
import { below, bytesIn, Weights } from '../layers/state.js'
import type { ConfigFile } from './config.js'
import { readMambaConfig, type MambaModelConfig } from './mamba-config.js'
import { readMambaSsmConfig } from './mamba-ssm-config.js'
import type { Architecture, CacheOptions, Network, WantedTensor } from './network.js'

const EMBEDDINGS = 'backbone.embeddings.weight'

function wantedTensors(config: MambaModelConfig): Record<string, WantedTensor> {
  const { mixer, hidden, rows, layers, tied } = config
  const wanted: Record<string, WantedTensor> = {
    [EMBEDDINGS]: { shape: [rows, hidden], alias: 'backbone.embedding.weight' },
    'backbone.norm_f.weight': { shape: [hidden] },
    'lm_head.weight': { shape: [rows, hidden], unused: tied },
  }
  const shapes = Object.entries(mixer.shapes)
  for (let i = 0; i < layers; i++) {
    wanted[`backbone.layers.${i}.norm.weight`] = { shape: [hidden] }
    for (const [name, shape] of shapes) wanted[`backbone.layers.${i}.mixer.${name}`] = { shape, host: name === 'A_log' }
  }
  return wanted
}

// A layer of either kind; a network's caches are those that its own layers made.
interface AnyMixer {
  newCache(batch: number, options: { dtype: FloatDType }): LayerCache
  forward(x: Tensor, cache?: RecurrentCache): Tensor
  step(x: Tensor, cache: RecurrentCache): Tensor
  tensors(): readonly Tensor[]
}

class MambaNetwork implements Network {
  readonly vocabulary: number
  readonly parameters: number
  readonly bytes: number
  private readonly weights: Weights
  private readonly embeddings: Tensor
  private readonly headWeight: Tensor
  private readonly normF: RMSNorm
  private readonly layers: { norm: RMSNorm; mixer: AnyMixer }[] = []
  private readonly residualInFp32: boolean

  constructor(
    config: MambaModelConfig,
    state: StateDict,
    readonly device: Device,
    readonly dtype: FloatDType,
  ) {
    const { hidden, vocabulary, rows } = config
    this.vocabulary = vocabulary
    this.residualInFp32 = config.residualInFp32
    const norm = (prefix: string) =>
      new RMSNorm({ hidden_size: hidden, layer_norm_epsilon: config.eps }, below(state, prefix), { device })
    const w = (this.weights = new Weights('model', state, device))
    const table = w.take(EMBEDDINGS, [rows, hidden])
    const head = config.tied ? table : w.take('lm_head.weight', [rows, hidden])
    this.normF = norm('backbone.norm_f.')
    for (let i = 0; i < config.layers; i++) {
      const prefix = `backbone.layers.${i}.`
      const mixer: AnyMixer = config.mixer.make(below(state, `${prefix}mixer.`), device)
      this.layers.push({ norm: norm(`${prefix}norm.`), mixer })
    }
    this.parameters = this.tensors().reduce((n, t) => n + t.size, 0)
    this.bytes = bytesIn(this.tensors())
    // Rows that pad the tables stand for no token: none is looked up, and none is ever the next.
    const tokens = (t: Tensor) => (rows === vocabulary ? t : w.own(t.narrow(0, 0, vocabulary)))
    this.embeddings = tokens(table)
    this.headWeight = config.tied ? this.embeddings : tokens(head)
  }

  body(ids: Tensor, caches?: readonly LayerCache[]): Tensor {
    return this.through(ids, (mixer, x, i) => mixer.forward(x, caches?.[i] as RecurrentCache | undefined))
  }

  step(ids: Tensor, caches: readonly LayerCache[]): Tensor {
    return this.through(ids, (mixer, x, i) => mixer.step(x, caches[i] as RecurrentCache))
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
  private through(ids: Tensor, mix: (mixer: AnyMixer, x: Tensor, i: number) => Tensor): Tensor {
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

function architecture(read: (config: ConfigFile) => MambaModelConfig): Architecture {
  return {
    wanted: (config) => wantedTensors(read(config)),
    build: (config, state, device, dtype) => new MambaNetwork(read(config), state, device, dtype),
  }
}

/** `mamba`, `falcon_mamba` and `mamba2`. */
export const mamba = architecture(readMambaConfig)

/** The checkpoints of mamba_ssm. */
export const mambaSsm = architecture(readMambaSsmConfig)
