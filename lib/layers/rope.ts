// The angles of rotary position embeddings: a frequency for each pair of a head's elements, by what a config says of them,
// and tables of cos and sin that grow with the positions asked for.

import { rangeError, SeqmixError, shown, typeError } from '../errors.js'
import { keep, tensor, type Device, type Tensor } from '../index.js'
import { flag, whole } from '../options.js'
import { expectObject, positiveIn } from './state.js'

/** What Hugging Face configs say of rotary embeddings, under `rope_parameters`, or `rope_scaling` beside `rope_theta`. */
export interface RopeParameters {
  /** 'default', 'linear', 'dynamic' (NTK), 'yarn' or 'llama3'; in older configs `type` */
  readonly rope_type?: string
  readonly type?: string
  readonly rope_theta?: number
  readonly partial_rotary_factor?: number
  /** how many times longer than in training */
  readonly factor?: number
  /** the length in training */
  readonly original_max_position_embeddings?: number
  /** yarn: what cos and sin are multiplied by; by default 0.1·ln(factor) + 1 */
  readonly attention_factor?: number
  readonly mscale?: number
  readonly mscale_all_dim?: number
  readonly beta_fast?: number
  readonly beta_slow?: number
  readonly truncate?: boolean
  /** llama3 */
  readonly low_freq_factor?: number
  readonly high_freq_factor?: number
}

/** The part of a config that rotary embeddings come from. */
export interface RopeConfig {
  readonly rope_theta?: number
  readonly rope_parameters?: RopeParameters | null
  readonly rope_scaling?: RopeParameters | null
  readonly partial_rotary_factor?: number
  readonly max_position_embeddings?: number
  /** pairs of neighbours (0, 1), (2, 3), …; else of an element of the first half and one of the second (false) */
  readonly rope_interleave?: boolean
}

const TYPES = ['default', 'linear', 'dynamic', 'yarn', 'llama3'] as const
type RopeType = (typeof TYPES)[number]

/** Angle per position of each pair, and what cos and sin are multiplied by. */
export interface Frequencies {
  readonly values: Float64Array
  readonly factor: number
}

/** Rows that a table has at first. */
const FIRST_ROWS = 256

/**
 * Tables of cos and sin for the positions of a device's layers, which share them. Computed in float64 and rounded once.
 *
 * The `dynamic` kind changes its frequencies with the length of the text. Here each position has those of a text that ends
 * with it, which is what generating token by token gives, so that the result does not depend on how a prompt is cut.
 */
export class Rope {
  /** elements of a head that are turned */
  readonly dims: number
  readonly interleaved: boolean
  private readonly type: RopeType
  private readonly parameters: RopeParameters
  private readonly theta: number
  private readonly maxPositions: number
  private readonly fixed: Frequencies
  private tables: { cos: Tensor; sin: Tensor } | undefined

  /** What a config says of rotary embeddings; undefined where it says nothing. */
  static of(config: RopeConfig, headDim: number, device: Device): Rope | undefined {
    const said = config.rope_parameters ?? config.rope_scaling ?? undefined
    return said === undefined && config.rope_theta === undefined ? undefined : new Rope(config, headDim, device)
  }

  /** Throws for a config that makes no sense. */
  static check(config: RopeConfig, headDim: number): void {
    new Rope(config, headDim)
  }

  /** @param device where the tables go */
  constructor(
    config: RopeConfig,
    headDim: number,
    readonly device?: Device,
  ) {
    expectObject(config, 'config')
    const said = config.rope_parameters ?? config.rope_scaling ?? {}
    expectObject(said, 'rope_parameters')
    // A tensor has a type too.
    if ('dims' in said) throw typeError('ERR_OPTION', 'rope_parameters', 'an object of numbers', shown(said))
    this.parameters = said
    this.type = ropeType(said.rope_type ?? said.type ?? 'default')
    this.theta = positiveIn(said.rope_theta ?? config.rope_theta ?? 10_000, 'rope_theta')
    const part = positiveIn(said.partial_rotary_factor ?? config.partial_rotary_factor ?? 1, 'partial_rotary_factor')
    this.dims = Math.trunc(headDim * part)
    if (part > 1 || this.dims < 2 || this.dims % 2 !== 0)
      throw rangeError('ERR_OPTION', 'partial_rotary_factor', `an even part of ${headDim} elements`, shown(part))
    this.interleaved = flag(config.rope_interleave ?? undefined, 'rope_interleave')
    this.maxPositions = positiveIn(config.max_position_embeddings ?? 2048, 'max_position_embeddings')
    this.fixed = this.frequencies()
  }

  /** positions that the tables have */
  get rows(): number {
    return this.tables?.cos.shape[0] ?? 0
  }

  /** cos and sin (positions, dims / 2) float32, of at least so many positions. They are replaced when they grow. */
  upTo(positions: number): { cos: Tensor; sin: Tensor } {
    whole(positions, 'positions', 0)
    if (this.tables && this.rows >= positions) return this.tables
    const rows = Math.max(positions, 2 * this.rows, FIRST_ROWS)
    const columns = this.dims / 2
    const [cos, sin] = [new Float32Array(rows * columns), new Float32Array(rows * columns)]
    for (let p = 0; p < rows; p++) {
      const { values, factor } = this.at(p)
      for (let c = 0; c < columns; c++) {
        const angle = p * values[c]!
        cos[p * columns + c] = factor * Math.cos(angle)
        sin[p * columns + c] = factor * Math.sin(angle)
      }
    }
    const place = (t: Float32Array): Tensor => keep(tensor(t, { shape: [rows, columns], device: this.device }))
    const next = { cos: place(cos), sin: place(sin) }
    this.dispose()
    return (this.tables = next)
  }

  tensors(): Tensor[] {
    return this.tables ? [this.tables.cos, this.tables.sin] : []
  }

  /** Frees the tables; they come again when they are asked for. */
  dispose(): void {
    for (const t of this.tensors()) t.dispose()
    this.tables = undefined
  }

  // Of the dynamic kind beyond the length in training, those of a text that ends at this position.
  private at(position: number): Frequencies {
    const max = this.parameters.original_max_position_embeddings ?? this.maxPositions
    if (this.type !== 'dynamic' || position < max) return this.fixed
    const factor = positiveIn(this.parameters.factor, 'factor')
    const stretch = (factor * (position + 1)) / max - (factor - 1)
    return { values: plain(this.theta * stretch ** (this.dims / (this.dims - 2)), this.dims), factor: 1 }
  }

  private frequencies(): Frequencies {
    const values = plain(this.theta, this.dims)
    const p = this.parameters
    switch (this.type) {
      case 'default':
      case 'dynamic':
        if (this.type === 'dynamic') positiveIn(p.factor, 'factor')
        return { values, factor: 1 }
      case 'linear': {
        const factor = positiveIn(p.factor, 'factor')
        return { values: values.map((f) => f / factor), factor: 1 }
      }
      case 'yarn':
        return yarn(values, p, this.theta, this.dims, this.maxPositions)
      case 'llama3':
        return { values: llama3(values, p), factor: 1 }
    }
  }
}

function plain(theta: number, dims: number): Float64Array {
  return Float64Array.from({ length: dims / 2 }, (_, c) => theta ** ((-2 * c) / dims))
}

/** YaRN (Peng et al., 2023): slow frequencies are stretched, fast ones stay, and between the two a ramp. */
function yarn(values: Float64Array, p: RopeParameters, theta: number, dims: number, maxPositions: number): Frequencies {
  const original = positiveIn(p.original_max_position_embeddings ?? maxPositions, 'original_max_position_embeddings')
  const factor = positiveIn(p.factor ?? maxPositions / original, 'factor')
  const scaleOf = (m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)
  const both = p.mscale && p.mscale_all_dim
  const attention = p.attention_factor ?? (both ? scaleOf(p.mscale) / scaleOf(p.mscale_all_dim) : scaleOf(1))
  // The pair that turns so many times over the length in training.
  const pairOf = (turns: number): number => (dims * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const truncate = p.truncate ?? true
  const low = pairOf(positiveIn(p.beta_fast ?? 32, 'beta_fast'))
  const high = pairOf(positiveIn(p.beta_slow ?? 1, 'beta_slow'))
  const from = Math.max(truncate ? Math.floor(low) : low, 0)
  let to = Math.min(truncate ? Math.ceil(high) : high, dims - 1)
  if (from === to) to += 0.001
  const stretched = values.map((f, c) => {
    const ramp = Math.min(1, Math.max(0, (c - from) / (to - from)))
    return (f / factor) * ramp + f * (1 - ramp)
  })
  return { values: stretched, factor: positiveIn(attention, 'attention_factor') }
}

/** Llama 3.1's: what turns slowly is stretched, what turns fast stays, and between the two it goes over smoothly. */
function llama3(values: Float64Array, p: RopeParameters): Float64Array {
  const factor = positiveIn(p.factor, 'factor')
  const low = positiveIn(p.low_freq_factor, 'low_freq_factor')
  const high = positiveIn(p.high_freq_factor, 'high_freq_factor')
  const original = positiveIn(p.original_max_position_embeddings, 'original_max_position_embeddings')
  return values.map((f) => {
    const turns = (original * f) / (2 * Math.PI)
    if (turns < low) return f / factor
    if (turns > high) return f
    const smooth = (turns - low) / (high - low)
    return ((1 - smooth) * f) / factor + smooth * f
  })
}

function ropeType(name: unknown): RopeType {
  const known = TYPES.find((type) => type === name)
  if (known) return known
  throw new SeqmixError('ERR_UNSUPPORTED', `rope_type: expected one of ${TYPES.join(', ')}, got ${shown(name)}`)
}
