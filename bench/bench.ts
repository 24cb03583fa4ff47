// What a suite is given: the device, its ceilings, and a place for rows.
import { type Device, type Tensor, debug } from '../lib/index.js'
import { type Effort, type Timing, time } from './measure.js'

/** The letters of a shape, and what else tells cases apart: B, D, L, N, K; layout. */
export type Letters = Record<string, number | string>

/** One line of results. The letters of the shape stand beside these keys. */
export interface Row extends Record<string, unknown> {
  op: string
  pass?: string
  device: string
  dtype?: string
  ms?: number
}

/** Rates that the machine reached in this run, in units a second. */
export interface Ceilings {
  read: number
  copy: number
  fma: number
  ex2?: number
  bf16?: number
}

/** The least that a case must do. */
export interface Work {
  /** Each input read once, each output written once. */
  bytes?: number
  /** float32 operations, two for each multiply-add. */
  operations?: number
  /** Those that tensor cores may do, of 16-bit operands. */
  products?: number
  /** Exponentials, logarithms and reciprocals: what CUDA's special function units do. */
  special?: number
}

/** What memory gives, in bytes a second. */
export function memoryOf(c: Ceilings): number {
  return Math.max(c.read, c.copy)
}

/** The shortest time, in milliseconds, that the ceilings allow. */
export function floorOf(work: Work, c: Ceilings, memory = memoryOf(c)): number {
  return (
    1e3 *
    Math.max(
      (work.bytes ?? 0) / memory,
      (work.operations ?? 0) / c.fma,
      (work.products ?? 0) / (c.bf16 ?? c.fma),
      c.ex2 ? (work.special ?? 0) / c.ex2 : 0,
    )
  )
}

export interface Bench {
  readonly device: Device
  readonly quick: boolean
  readonly effort: Effort
  readonly ceilings: () => Ceilings
  /** What memory gives now, in bytes a second: where others use it too, another rate from one minute to the next. */
  readonly memory: () => number
  /** Whether the case is wanted. */
  wants(op: string, letters: Letters): boolean
  report(row: Row): void
}

/** A case made ready: what to time, and the inputs to free after it. */
export interface Prepared {
  queue: () => void
  work: Work
  /** More keys of the row, from the time of one call in milliseconds. */
  rates?: (ms: number) => Record<string, number>
  inputs: readonly Tensor[]
}

export function round(x: number, digits = 4): number {
  return Number(x.toPrecision(digits))
}

export function timingKeys(t: Timing): Record<string, number> {
  return { ms: round(t.ms), ms_min: round(t.best), spread: round(t.spread, 2), samples: t.samples, repeats: t.repeats }
}

/** Runs what times a case; with its result, the keys that say how near a time is to the floor. */
export async function besideFloor<T>(
  bench: Bench,
  work: Work,
  run: () => Promise<T>,
): Promise<[T, (ms: number) => Record<string, number>]> {
  const ceilings = bench.ceilings()
  const bound = floorOf(work, ceilings) > floorOf({ ...work, bytes: 0 }, ceilings) // by memory
  const before = bound ? bench.memory() : memoryOf(ceilings)
  const result = await run()
  const memory = bound ? (before + bench.memory()) / 2 : before
  return [
    result,
    (ms) => ({
      ...(bound ? { memory_gb_s: round(memory / 1e9) } : {}),
      floor_share: round(floorOf(work, ceilings, memory) / ms, 3),
    }),
  ]
}

/** Times one case of an op and reports it. */
export async function measure(bench: Bench, op: string, letters: Letters, prepare: () => Prepared): Promise<void> {
  if (!bench.wants(op, letters)) return
  const { queue, work, rates, inputs } = prepare()
  try {
    const [timing, floorKeys] = await besideFloor(bench, work, () => time(bench.device, queue, bench.effort))
    const bytes = work.bytes ? { gb_s: round(work.bytes / timing.ms / 1e6) } : {}
    bench.report({
      op,
      pass: 'forward',
      device: bench.device.name,
      dtype: 'float32',
      ...letters,
      ...timingKeys(timing),
      ...bytes,
      ...rates?.(timing.ms),
      ...floorKeys(timing.ms),
      kernel: debug.lastKernel(bench.device),
    })
  } finally {
    for (const t of inputs) t.dispose()
  }
}
