// The language models `llama`, `mistral` and `gemma2`: embedding, then for each layer h ← h + attention(norm(h)) and
// h ← h + mlp(norm(h)), a last norm and the head. Gemma 2 also norms what a layer adds, multiplies embeddings by √hidden, adds 1
// to the weights of norms, and caps its logits.

import { damaged } from '../checkpoint/format.js'
import { SeqmixError } from '../errors.js'
import { embedding, linear, mul, scope, softcap, tensor, type Device, type FloatDType, type Tensor } from '../index.js'
import { Attention, MLP, RMSNorm, Rope } from '../layers/index.js'
import type { AttentionConfig, KVCache, LayerCache, MLPConfig, StateDict } from '../layers/index.js'
import { attentionShapes } from '../layers/attention.js'
import { mlpActivation, mlpShapes } from '../layers/mlp.js'
import { below, bytesIn, Weights } from '../layers/state.js'
import type { ConfigFile } from './config.js'
import type { Architecture, CacheOptions, Network, WantedTensor } from './network.js'

/** What a family's config.json leaves out, and how its layers differ. */
interface Family {
  readonly kvHeads?: number
  readonly headDim?: number
  readonly maxPositions: number
  readonly tied: boolean
  /** of layers that have one */
  readonly window?: number
  /** which layers have it, where config.json does not say */
  readonly windowed: (layer: number) => boolean
  /** Gemma's own: norms behind layers, √hidden, 1 + weight */
  readonly gemma: boolean
}

const families: Readonly<Record<string, Family>> = {
  llama: { maxPositions: 2048, tied: false, windowed: () => false, gemma: false },
  mistral: { kvHeads: 8, maxPositions: 131_072, tied: false, window: 4096, windowed: () => true, gemma: false },
  gemma2: {
    ...{ kvHeads: 4, headDim: 256, maxPositions: 8192, tied: true, window: 4096 },
    ...{ windowed: (layer: number) => layer % 2 === 0, gemma: true },
  },
}

interface DecoderConfig {
  readonly attention: readonly AttentionConfig[]
  readonly mlp: MLPConfig
  readonly hidden: number
  readonly vocabulary: number
  readonly eps: number
  readonly tied: boolean
  readonly gemma: boolean
  readonly logitCap: number | undefined
}

function readDecoderConfig(config: ConfigFile): DecoderConfig {
  const family = families[config.text('model_type')]!
  const { values } = config
  const hidden = config.count('hidden_size')
  const heads = config.count('num_attention_heads')
  const layers = config.count('num_hidden_layers', undefined, 10_000)
  const { gemma } = family
  if (values.use_bidirectional_attention) {
    throw new SeqmixError('ERR_UNSUPPORTED', `${config.file}: use_bidirectional_attention is not supported`)
  }
  const base = {
    hidden_size: hidden,
    num_attention_heads: heads,
    num_key_value_heads: config.count('num_key_value_heads', family.kvHeads ?? heads),
    head_dim: config.count('head_dim', family.headDim ?? hidden / heads),
    attention_bias: config.flag('attention_bias', false),
    rope_theta: config.positive('rope_theta', 10_000),
    rope_parameters: (values.rope_parameters ?? values.rope_scaling ?? null) as AttentionConfig['rope_parameters'] &
      object,
    partial_rotary_factor: config.positive('partial_rotary_factor', 1),
    max_position_embeddings: config.count('max_position_embeddings', family.maxPositions),
    ...(gemma
      ? {
          query_pre_attn_scalar: config.positive('query_pre_attn_scalar', 256),
          attn_logit_softcapping: config.positiveOrNull('attn_logit_softcapping', 50),
        }
      : {}),
  }
  const window = family.window === undefined ? null : config.countOrNull('sliding_window', family.window)
  const types = config.texts('layer_types')
  const attention = Array.from({ length: layers }, (_, i): AttentionConfig => {
    const windowed = types ? types[i] === 'sliding_attention' : family.windowed(i)
    return { ...base, sliding_window: windowed ? window : null }
  })
  const mlp: MLPConfig = {
    hidden_size: hidden,
    intermediate_size: config.count('intermediate_size'),
    hidden_act: gemma ? config.text('hidden_activation', 'gelu_pytorch_tanh') : config.text('hidden_act', 'silu'),
    mlp_bias: config.flag('mlp_bias', false),
  }
  mlpActivation(mlp.hidden_act)
  return {
    ...{ attention, mlp, hidden, gemma },
    vocabulary: config.count('vocab_size'),
    eps: config.positive('rms_norm_eps', 1e-6),
    tied: config.flag('tie_word_embeddings', family.tied),
    logitCap: gemma ? (config.positiveOrNull('final_logit_softcapping', 30) ?? undefined) : undefined,
  }
}

const EMBEDDINGS = 'model.embed_tokens.weight'
const NORMS = ['input_layernorm', 'post_attention_layernorm'] as const
const GEMMA_NORMS = [...NORMS, 'pre_feedforward_layernorm', 'post_feedforward_layernorm'] as const

function wantedTensors(config: DecoderConfig): Record<string, WantedTensor> {
  const { hidden, vocabulary, gemma } = config
  // What 1 is added to is held in float32, whatever it is stored in.
  const norm: WantedTensor = { shape: [hidden], host: gemma }
  const wanted: Record<string, WantedTensor> = {
    [EMBEDDINGS]: { shape: [vocabulary, hidden] },
    'model.norm.weight': norm,
    'lm_head.weight': { shape: [vocabulary, hidden], unused: config.tied },
  }
  config.attention.forEach((attention, i) => {
    const prefix = `model.layers.${i}.`
    for (const name of gemma ? GEMMA_NORMS : NORMS) wanted[`${prefix}${name}.weight`] = norm
    for (const [name, shape] of Object.entries(attentionShapes(attention)))
      wanted[`${prefix}self_attn.${name}`] = { shape }
    for (const [name, shape] of Object.entries(mlpShapes(config.mlp))) wanted[`${prefix}mlp.${name}`] = { shape }
    // Older checkpoints hold what follows from the config.
    wanted[`${prefix}self_attn.rotary_emb.inv_freq`] = { shape: [], unused: true }
  })
  return wanted
}

interface Layer {
  readonly before: RMSNorm
  readonly attention: Attention
  /** of what attention adds */
  readonly behindAttention: RMSNorm | undefined
  readonly middle: RMSNorm
  readonly mlp: MLP
  /** of what the MLP adds */
  readonly behindMlp: RMSNorm | undefined
}

class DecoderNetwork implements Network {
  readonly vocabulary: number
  readonly parameters: number
  readonly bytes: number
  private readonly weights: Weights
  private readonly embeddings: Tensor
  private readonly headWeight: Tensor
  private readonly scale: Tensor | undefined
  private readonly last: RMSNorm
  private readonly layers: Layer[] = []
  private readonly rope: Rope
  private readonly logitCap: number | undefined

  constructor(
    config: DecoderConfig,
    state: StateDict,
    readonly device: Device,
    readonly dtype: FloatDType,
  ) {
    const { hidden, gemma, vocabulary } = config
    this.vocabulary = vocabulary
    this.logitCap = config.logitCap
    const norm = (prefix: string): RMSNorm => {
      const name = `${prefix}weight`
      const weight = gemma ? onePlus(state[name] as HostTensor) : state[name]!
      return new RMSNorm({ hidden_size: hidden, layer_norm_epsilon: config.eps }, { weight }, { device })
    }
    const w = (this.weights = new Weights('model', state, device))
    this.embeddings = w.take(EMBEDDINGS, [vocabulary, hidden])
    this.headWeight = config.tied ? this.embeddings : w.take('lm_head.weight', [vocabulary, hidden])
    this.scale = gemma ? tensor([Math.sqrt(hidden)], { dtype, device }) : undefined
    this.last = norm('model.norm.')
    this.rope = new Rope(config.attention[0]!, config.attention[0]!.head_dim!, device)
    config.attention.forEach((attention, i) => {
      const prefix = `model.layers.${i}.`
      this.layers.push({
        before: norm(`${prefix}input_layernorm.`),
        attention: new Attention(attention, below(state, `${prefix}self_attn.`), { device, rope: this.rope }),
        behindAttention: gemma ? norm(`${prefix}post_attention_layernorm.`) : undefined,
        middle: norm(`${prefix}${gemma ? 'pre_feedforward' : 'post_attention'}_layernorm.`),
        mlp: new MLP(config.mlp, below(state, `${prefix}mlp.`), { device }),
        behindMlp: gemma ? norm(`${prefix}post_feedforward_layernorm.`) : undefined,
      })
    })
    const held = this.weightTensors()
    this.parameters = held.reduce((n, t) => n + t.size, 0)
    this.bytes = bytesIn(held)
  }

  body(ids: Tensor, caches?: readonly LayerCache[]): Tensor {
    return this.through(ids, (attention, x, i) => attention.forward(x, caches?.[i] as KVCache | undefined))
  }

  step(ids: Tensor, caches: readonly LayerCache[]): Tensor {
    return this.through(ids, (attention, x, i) => attention.step(x, caches[i] as KVCache))
  }

  head(hidden: Tensor): Tensor {
    const { logitCap } = this
    if (logitCap === undefined) return linear(hidden, this.headWeight)
    return scope(() => softcap(linear(hidden, this.headWeight), logitCap))
  }

  newCaches(batch: number, options: CacheOptions): LayerCache[] {
    return this.layers.map(({ attention }) => attention.newCache(batch, { dtype: this.dtype, ...options }))
  }

  tensors(): Tensor[] {
    return [...this.weightTensors(), ...(this.scale ? [this.scale] : []), ...this.rope.tensors()]
  }

  dispose(): void {
    for (const t of this.tensors()) t.dispose()
    this.rope.dispose()
  }

  private weightTensors(): Tensor[] {
    const layers = this.layers.flatMap((layer) =>
      Object.values(layer).flatMap((part: { tensors(): readonly Tensor[] } | undefined) => [
        ...(part?.tensors() ?? []),
      ]),
    )
    return [...this.weights.tensors(), ...this.last.tensors(), ...layers]
  }

  // Through all layers and the last norm. What a layer adds is added by the norm that follows, in the same pass. What
  // it leaves is freed at once: a scope alone would hold all of it until the last layer is done.
  private through(ids: Tensor, attend: (attention: Attention, x: Tensor, i: number) => Tensor): Tensor {
    const { layers, last, dtype, scale } = this
    return scope(() => {
      let residual = embedding(ids, this.embeddings, { dtype })
      if (scale) residual = mul(residual, scale)
      let x = (layers[0]?.before ?? last).forward(residual)
      const add = (added: Tensor, behind: RMSNorm | undefined, next: RMSNorm): void => {
        const y = behind ? behind.forward(added) : added
        const sum = next.forward(y, { residual })
        for (const t of [added, y, x, residual]) t.dispose()
        x = sum.out
        residual = sum.residual
      }
      layers.forEach((layer, i) => {
        add(attend(layer.attention, x, i), layer.behindAttention, layer.middle)
        add(layer.mlp.forward(x), layer.behindMlp, layers[i + 1]?.before ?? last)
      })
      return x
    })
  }
}

type HostTensor = { readonly type: string; readonly data: Float32Array; readonly dims: readonly number[] }

function onePlus({ type, data, dims }: HostTensor): HostTensor {
  return { type, data: data.map((v) => 1 + v), dims }
}

/** A config's values are checked by the layers too: what they refuse is the file's fault. */
function ofFile<T>(config: ConfigFile, make: () => T): T {
  try {
    return make()
  } catch (error) {
    if (error instanceof SeqmixError) throw error
    throw damaged(config.file, (error as Error).message, error)
  }
}

/** `llama`, `mistral` and `gemma2`. */
export const decoder: Architecture = {
  wanted: (config) =>
    ofFile(config, () => {
      const read = readDecoderConfig(config)
      for (const attention of read.attention.slice(0, 1)) Rope.check(attention, attention.head_dim!)
      return wantedTensors(read)
    }),
  build: (config, state, device, dtype) => new DecoderNetwork(readDecoderConfig(config), state, device, dtype),
}
