import { selectiveScan, type Tensor } from '../../lib/index.js'
import type { NDArray } from '../reference/array.js'
import type { ScanInputs } from '../reference/selective_scan.js'
import { floatTypes, type FloatType } from './floats.js'
import type { Layout } from './layout.js'
import { place } from './layout.js'
import type { Random } from './random.js'

export type BCForm = 'constant' | 'shared' | 'grouped'

export interface ScanSizes {
  b: number
  d: number
  L: number
  n: number
  groups?: number
  B?: BCForm
  C?: BCForm
  softplus?: boolean
}

/**
 * Inputs with every option there is, of the sizes that trained models have: decay rates from 1/2 to 16, steps from
 * thousandths to tenths.
 */
export function scanInputs(random: Random, sizes: ScanSizes): ScanInputs {
  const { b, d, L, n, groups = 1, B = 'shared', C = 'shared', softplus = true } = sizes
  const coefficient = (form: BCForm): NDArray =>
    random.normal(form === 'constant' ? [d, n] : form === 'shared' ? [b, n, L] : [b, groups, n, L])
  return {
    u: random.normal([b, d, L]),
    delta: softplus ? random.normal([b, d, L], 0.7, -1) : random.uniform([b, d, L], 1e-3, 0.2),
    A: random.uniform([d, n], Math.log(0.5), Math.log(16)).map((v) => Math.fround(-Math.exp(v))),
    B: coefficient(B),
    C: coefficient(C),
    D: random.normal([d]),
    z: random.normal([b, d, L]),
    deltaBias: softplus ? random.uniform([d], -5, -1) : random.uniform([d], 0, 0.1),
    deltaSoftplus: softplus,
    initialState: random.normal([b, d, n]),
    seqIdx: random.sequences(b, L),
  }
}

export type ScanTypes = { readonly [K in keyof ScanInputs]?: FloatType }

/** What each input is held in: activations, weights (`each`: one after the other another), and the initial state. */
export function scanTypes(
  x: ScanInputs,
  activations: FloatType,
  weights: FloatType | 'each' = activations,
  state: FloatType = 'float32',
): ScanTypes {
  const weight = (i: number): FloatType => (weights === 'each' ? floatTypes[i % 3]! : weights)
  return {
    u: activations,
    delta: activations,
    z: activations,
    A: weight(1),
    B: x.B.shape.length === 2 ? weight(2) : activations,
    C: x.C.shape.length === 2 ? weight(0) : activations,
    D: weight(2),
    deltaBias: weight(0),
    initialState: state,
  }
}

/**
 * The op on these values, laid out as `where` says (plain where it says nothing) and held as `types` says (float32 where it
 * says nothing), last state and all.
 */
export function run(
  x: ScanInputs,
  where: Partial<Record<keyof ScanInputs, Layout>> = {},
  types: ScanTypes = {},
): { out: Tensor; lastState: Tensor } {
  const at = (key: 'u' | 'delta' | 'A' | 'B' | 'C' | 'D' | 'z' | 'deltaBias' | 'initialState'): Tensor | undefined =>
    x[key] ? place(x[key], where[key] ?? 'plain', types[key]) : undefined
  return selectiveScan(at('u')!, at('delta')!, at('A')!, at('B')!, at('C')!, {
    D: at('D'),
    z: at('z'),
    deltaBias: at('deltaBias'),
    deltaSoftplus: x.deltaSoftplus ?? false,
    initialState: at('initialState'),
    seqIdx: x.seqIdx ? place(x.seqIdx, where.seqIdx ?? 'plain', 'int32') : undefined,
    returnLastState: true,
  })
}
