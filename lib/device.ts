import { type Graph, type GraphInputs, capture } from './capture.js'
import { rangeError, shown, typeError } from './errors.js'
import { native } from './native.js'

/** What a device is, or why it is not there. */
export interface DeviceInfo {
  /** `cpu`, `cuda:0`, …; just `cuda` when CUDA as a whole is off. */
  name: string
  available: boolean
  /** Why it is not there. */
  reason?: string
  /** The processor's or the GPU's name. */
  processor?: string
  /** The instruction set that the kernels use: `avx512`, `avx2`, `scalar`, or `sm_90`. */
  target?: string
  /** Bytes in all. */
  memory?: number
  /** CPU: the threads that an op may use. CUDA: multiprocessors. */
  threads?: number
}

const made = Symbol('made by seqmix')

/** Where tensors live and ops run. Each has one queue per thread of JavaScript, which works in order. */
export class Device {
  readonly #made = true
  /** `cpu`, `cuda:0`, … */
  readonly name: string
  readonly type: 'cpu' | 'cuda'
  /** The GPU's number; 0 for the CPU. */
  readonly index: number
  /** @internal the addon's number for it */
  readonly id: number

  /** @internal */
  constructor(key: symbol, id: number) {
    if (key !== made) throw new TypeError('Device: expected to be made by device(), got new')
    this.id = id
    this.type = id === 0 ? 'cpu' : 'cuda'
    this.index = id === 0 ? 0 : id - 1
    this.name = id === 0 ? 'cpu' : `cuda:${this.index}`
    Object.freeze(this)
  }

  /** @internal */
  static isDevice(value: unknown): value is Device {
    return typeof value === 'object' && value !== null && #made in value
  }

  /** What it is. */
  get info(): DeviceInfo {
    return devices().find((d) => d.name === this.name)!
  }

  /** Resolves when everything queued on it so far has ended. Rejects with ERR_INDEX or ERR_CUDA when an op failed. */
  async synchronize(): Promise<void> {
    await native.synchronize(this.id)
  }

  /** `synchronize` that blocks. */
  synchronizeSync(): void {
    native.synchronizeSync(this.id)
  }

  /**
   * Records the ops of `fn`, to run them again and again for less: on CUDA a graph, launched as a whole; on the CPU one item
   * of the queue. Nothing is computed before the first `run`.
   *
   * `fn` is synchronous; it takes `inputs` (a Tensor, or arrays and plain objects of them), which live in memory of the
   * graph's that `run` copies into, and may use any other tensor. What it changes in place (a cache's state) moves on at each run.
   * What it takes from JavaScript is fixed when it is captured: numbers, shapes, arrays (copied once). Counters and lengths
   * that do change live in tensors: `increment`, and the `step` of `sample`.
   *
   * The memory of tensors that `fn` uses is kept, in place, as long as the graph lives; an op that changes one of them while
   * another argument shares its memory is refused. Ops of other devices are not recorded.
   *
   * @throws ERR_UNSUPPORTED inside `fn` for what would have to wait for a result: `data()`, `dataSync()`, `to()` another
   *   device, `synchronize()`, and for another `capture()` or `run()`; ERR_OPTION for an `fn` that returns a promise
   */
  capture<O>(fn: () => O): Graph<undefined, O>
  capture<const I extends GraphInputs, O>(fn: (inputs: I) => O, inputs: I): Graph<I, O>
  capture<I extends GraphInputs | undefined, O>(fn: (inputs: I) => O, inputs?: I): Graph<I, O> {
    return capture(this, fn, inputs as I)
  }

  toString(): string {
    return this.name
  }
}

const opened: Device[] = []

/** @internal the device of that number, opened if it was not */
export function deviceOf(id: number): Device {
  const known = opened[id]
  if (known) return known
  native.openDevice(id)
  return (opened[id] = new Device(made, id))
}

let best: Device | undefined

/**
 * A device by name: `cpu`, `cuda` (the first GPU), `cuda:1`. Without a name, the one that SEQMIX_DEVICE names, or else the
 * best there is: the first GPU, or the CPU. Throws ERR_DEVICE, with the reason, when it is not there.
 */
export function device(name?: string | Device): Device {
  if (Device.isDevice(name)) return name
  if (name === undefined) return (best ??= chosen())
  return named(name, 'device')
}

function chosen(): Device {
  const wanted = process.env.SEQMIX_DEVICE
  if (wanted) return named(wanted, 'SEQMIX_DEVICE')
  return deviceOf(native.devices().some((d) => d.available && d.name === 'cuda:0') ? 1 : 0)
}

function named(name: unknown, what: string): Device {
  if (typeof name !== 'string') throw typeError('ERR_DEVICE', what, "'cpu', 'cuda' or 'cuda:0'", shown(name))
  if (name === 'cpu') return deviceOf(0)
  const cuda = /^cuda(?::(\d{1,4}))?$/.exec(name)
  if (!cuda) throw typeError('ERR_DEVICE', what, "'cpu', 'cuda' or 'cuda:0'", shown(name))
  return deviceOf(1 + Number(cuda[1] ?? 0))
}

/** Every device, and for each that is off, why. */
export function devices(): DeviceInfo[] {
  return native.devices()
}

/** Live tensors and their bytes on each device that was used. */
export function memory(): Record<string, { tensors: number; bytes: number }> {
  const all: Record<string, { tensors: number; bytes: number }> = {}
  for (const d of opened) {
    if (!d) continue
    const [tensors, bytes] = native.memory(d.id)
    all[d.name] = { tensors, bytes }
  }
  return all
}

/** How many threads a CPU op may use, in the whole process, from the next op on: 1 to 1024. Results do not depend on it. */
export function setThreads(n: number): void {
  if (!Number.isInteger(n) || n < 1 || n > 1024) {
    throw rangeError('ERR_OPTION', 'threads', 'a whole number from 1 to 1024', shown(n))
  }
  native.setThreads(n)
}
