import { debug, ssdChunkScan, type SsdMode, type Tensor } from '../../lib/index.js'
import type { NDArray } from '../reference/array.js'
import type { SsdInputs } from '../reference/ssd_chunk_scan.js'
import { dut, on } from './device.js'
import { roundedTo, type FloatType } from './floats.js'
import { place, type Layout } from './layout.js'
import type { Random } from './random.js'

export interface SsdSizes {
  b: number
  L: number
  h: number
  p: number
  n: number
  groups?: number
  /** D is (h, p), not (h). */
  wideD?: boolean
  softplus?: boolean
}

/** Inputs with every option there is, of the sizes that trained models have: decay rates from 1 to 16, steps from thousandths on. */
export function ssdInputs(random: Random, sizes: SsdSizes): SsdInputs {
  const { b, L, h, p, n, groups = 1, wideD = false, softplus = true } = sizes
  return {
    x: random.normal([b, L, h, p]),
    dt: softplus ? random.normal([b, L, h], 0.7, -1) : random.uniform([b, L, h], 1e-3, 0.2),
    A: random.uniform([h], 0, Math.log(16)).map((v) => Math.fround(-Math.exp(v))),
    B: random.normal([b, L, groups, n]),
    C: random.normal([b, L, groups, n]),
    D: random.normal(wideD ? [h, p] : [h]),
    z: random.normal([b, L, h, p]),
    dtBias: softplus ? random.uniform([h], -5, -1) : random.uniform([h], 0, 0.1),
    dtSoftplus: softplus,
    initialStates: random.normal([b, h, p, n]),
    seqIdx: random.sequences(b, L),
  }
}

type Key = 'x' | 'dt' | 'A' | 'B' | 'C' | 'D' | 'z' | 'dtBias' | 'initialStates'

export interface SsdHow {
  where?: Partial<Record<Key | 'seqIdx', Layout>>
  types?: Partial<Record<Key, FloatType>>
  mode?: SsdMode | undefined
  chunkSize?: number | undefined
}

/** Every operand in the dtypes that the op allows beside activations of one. */
export function ssdTypes(
  activations: FloatType,
  dt: FloatType,
  weights: FloatType,
  states: FloatType,
): SsdHow['types'] {
  const [x, w] = [activations, weights]
  return { x, z: x, B: x, C: x, dt, A: w, D: w, dtBias: w, initialStates: states }
}

/** What the op sees: the inputs as their dtypes hold them. */
export function seenBy(x: SsdInputs, types: SsdHow['types'] = {}): SsdInputs {
  return roundedTo(x, types)
}

/** The op on these values, laid out and held as `how` says (plain and float32 where it says nothing), final states and all. */
export function runSsd(
  x: SsdInputs,
  { where = {}, types = {}, mode, chunkSize }: SsdHow = {},
): {
  out: Tensor
  finalStates: Tensor
} {
  const at = (key: Key): Tensor | undefined =>
    x[key] ? place(x[key], where[key] ?? 'plain', types[key] ?? 'float32') : undefined
  return ssdChunkScan(at('x')!, at('dt')!, at('A')!, at('B')!, at('C')!, {
    D: at('D'),
    z: at('z'),
    dtBias: at('dtBias'),
    dtSoftplus: x.dtSoftplus ?? false,
    ...(x.dtLimit ? { dtLimit: x.dtLimit } : {}),
    initialStates: at('initialStates'),
    seqIdx: x.seqIdx ? place(x.seqIdx, where.seqIdx ?? 'plain', 'int32') : undefined,
    returnFinalStates: true,
    ...(mode ? { mode } : {}),
    ...(chunkSize ? { chunkSize } : {}),
  })
}

/** The kernels on CUDA that multiply matrices: of any GPU since Ampere, and Hopper's, which takes rows on 16 bytes. */
export const tensorCores = /^cuda\.sm[89]0\.ssd_chunk_scan\.chunked$/

/**
 * The bound of what ran last. Tensor cores multiply decays and states that are rounded to 16 bits, and so the outputs' other
 * than their own rounding: 8e-4 and 4.5e-3 is what that costs, in the final states too. All other kernels compute in float32.
 */
export function ssdBound(dtype: FloatType): { bound?: number } {
  if (dtype === 'float32' || !tensorCores.test(debug.lastKernel(dut))) return {}
  return { bound: dtype === 'float16' ? 8e-4 : 4.5e-3 }
}

/** The bound of what a 16-bit scan is a part of and not the last op: on CUDA it may have run on tensor cores. */
export function boundAroundSsd(dtype: FloatType): { bound?: number } {
  if (dtype === 'float32' || on === 'cpu') return {}
  return { bound: dtype === 'float16' ? 8e-4 : 4.5e-3 }
}

/** Tokens [from, from + length) of every input that has a time. */
export function cutTime(x: SsdInputs, from: number, length: number): SsdInputs {
  const time = (a: NDArray): NDArray => a.slice(1, from, length)
  return {
    ...x,
    x: time(x.x),
    dt: time(x.dt),
    B: time(x.B),
    C: time(x.C),
    z: x.z && time(x.z),
    seqIdx: x.seqIdx && time(x.seqIdx),
  }
}
