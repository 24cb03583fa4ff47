// Timing. What is timed goes on a device's queue and is waited for, with so many repeats before each wait that the wait
// and the launches cost nothing; samples are taken until their median holds still.
import type { Device } from '../lib/index.js'

export interface Timing {
  /** Median, in milliseconds for one repeat. */
  readonly ms: number
  /** The fastest sample: on a machine that does other things too, nearer to what the work itself takes. */
  readonly best: number
  /** Half the distance between the quartiles, as a share of the median. */
  readonly spread: number
  readonly samples: number
  /** Repeats in each sample. */
  readonly repeats: number
}

export interface Effort {
  /** Stop when this much time was spent, in milliseconds. */
  readonly budget: number
  /** A sample takes at least this long, in milliseconds. */
  readonly sample: number
  /** And has at least this many repeats where one takes less than `sample`. */
  readonly repeats: number
}

export function effortFor(device: Device, quick: boolean): Effort {
  const cuda = device.type === 'cuda'
  return { budget: quick ? 150 : 1500, sample: cuda ? 20 : 4, repeats: cuda ? 20 : 1 }
}

const leastSamples = 7
const enoughSamples = 200

export function quantile(ordered: readonly number[], q: number): number {
  const at = q * (ordered.length - 1)
  const low = Math.floor(at)
  const high = Math.min(low + 1, ordered.length - 1)
  return ordered[low]! + (ordered[high]! - ordered[low]!) * (at - low)
}

export function sorted(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b)
}

export function median(values: readonly number[]): number {
  return quantile(sorted(values), 0.5)
}

function timingOf(samples: readonly number[], repeats: number): Timing {
  const ordered = sorted(samples)
  const ms = quantile(ordered, 0.5)
  const spread = (quantile(ordered, 0.75) - quantile(ordered, 0.25)) / 2 / ms
  return { ms, best: ordered[0]!, spread, samples: samples.length, repeats }
}

/** Lets finalizers and other macrotasks run, so that garbage does not pile up while we measure. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** One sample: milliseconds for each of `repeats` calls of `queue`, the wait at the end included. */
function sample(device: Device, queue: () => void, repeats: number): number {
  device.synchronizeSync()
  const from = performance.now()
  for (let i = 0; i < repeats; i++) queue()
  device.synchronizeSync()
  return (performance.now() - from) / repeats
}

/** How many repeats fill a sample; warms everything up on the way. */
function repeatsFor(device: Device, queue: () => void, effort: Effort): number {
  let repeats = 1
  for (;;) {
    const ms = Math.min(sample(device, queue, repeats), sample(device, queue, repeats)) * repeats
    if (ms >= effort.sample / 2) {
      const fill = Math.ceil((effort.sample * repeats) / ms)
      return ms / repeats >= effort.sample ? 1 : Math.max(fill, effort.repeats)
    }
    repeats *= 4
  }
}

/** Times what `queue` puts on the device's queue. It must free what it makes. */
export async function time(device: Device, queue: () => void, effort: Effort): Promise<Timing> {
  const repeats = repeatsFor(device, queue, effort)
  const samples: number[] = []
  const until = performance.now() + effort.budget
  while (samples.length < leastSamples || (performance.now() < until && samples.length < enoughSamples)) {
    samples.push(sample(device, queue, repeats))
    await breathe()
  }
  return timingOf(samples, repeats)
}

/** Times an asynchronous function, one call a sample. */
export async function timeAsync(run: () => Promise<void>, effort: Effort, least = 3): Promise<Timing> {
  await run()
  const samples: number[] = []
  const until = performance.now() + effort.budget
  while (samples.length < least || (performance.now() < until && samples.length < enoughSamples)) {
    const from = performance.now()
    await run()
    samples.push(performance.now() - from)
    await breathe()
  }
  return timingOf(samples, 1)
}
