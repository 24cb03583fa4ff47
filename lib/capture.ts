// A fixed sequence of ops, recorded once and run many times. On CUDA it is a CUDA graph: a run costs one launch instead of one
// for each op. On the CPU a run is one item of the queue, and the calling thread's processor is left to the ops.
import type { Device } from './device.js'
import { SeqmixError, rangeError, shown, typeError } from './errors.js'
import { type CaptureHandle, native } from './native.js'
import { Tensor, scoped, tensorsIn } from './tensor.js'

/** What a captured function takes: a Tensor, or arrays and plain objects of them. */
export type GraphInputs = Tensor | readonly GraphInputs[] | { readonly [name: string]: GraphInputs }

const made = Symbol('made by seqmix')

/** Whether a captured function is being called now. */
let recording = false

/** @internal whether the ops asked for now are only recorded */
export function isRecording(): boolean {
  return recording
}

function expectNotRecording(what: string): void {
  if (!recording) return
  throw new SeqmixError('ERR_UNSUPPORTED', `${what}: expected a call outside of a captured function, got one inside`)
}

/** What `device.capture` returns. */
export class Graph<I = undefined, O = unknown> {
  readonly device: Device
  readonly #inputs: GraphInputs | undefined
  readonly #capture: CaptureHandle | undefined
  #result: O | undefined
  #owned: readonly Tensor[] = []
  #disposed = false

  /** @internal */
  constructor(key: symbol, device: Device, fn: (inputs: I) => O, inputs: I) {
    if (key !== made) throw new TypeError('Graph: expected to be made by device.capture(), got new')
    this.device = device
    this.#inputs =
      inputs === undefined ? undefined : detached(() => mapped(inputs, 'inputs', (t, at) => own(t, at, device)))
    try {
      this.#capture = native.beginCapture(device.id)
      this.#record(this.#capture, fn)
    } catch (error) {
      this.dispose()
      throw error
    }
  }

  /**
   * Does again what was captured, with these inputs (of the shapes and dtypes of those it was captured with), or with those of
   * the run before. Returns at once, as an op does, and always the same tensors: the next run overwrites them.
   *
   * @throws ERR_SHAPE, ERR_DTYPE, ERR_DEVICE for other inputs than were captured; ERR_DISPOSED; ERR_UNSUPPORTED inside a
   *   captured function
   */
  run(inputs?: I): O {
    expectNotRecording('run')
    if (this.#disposed) throw typeError('ERR_DISPOSED', 'graph', 'a live Graph', 'one that was disposed')
    if (inputs !== undefined) this.#place(inputs)
    native.runCapture(this.#capture!)
    return this.#result as O
  }

  /** Gives its memory back, with the tensors that it returned. A second time does nothing. */
  dispose(): void {
    this.#disposed = true
    for (const t of this.#owned) t.dispose()
    if (this.#inputs !== undefined) for (const t of tensorsIn(this.#inputs, new Set())) t.dispose()
    if (this.#capture) native.endCapture(this.#capture)
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed
  }

  /** Calls the function on handles that it may do with as it likes. */
  #record(capture: CaptureHandle, fn: (inputs: I) => O): void {
    recording = true
    try {
      const { result, kept } = scoped('capture', () => {
        const inputs = this.#inputs && mapped(this.#inputs, 'inputs', (t) => t.to(this.device))
        return fn(inputs as I)
      })
      this.#result = result
      this.#owned = kept
    } finally {
      native.stopCapture(capture)
      recording = false
    }
  }

  #place(inputs: unknown): void {
    if (this.#inputs === undefined) throw typeError('ERR_OPTION', 'inputs', 'none, as it was captured', shown(inputs))
    const pairs: [Tensor, Tensor][] = []
    matched(this.#inputs, inputs, 'inputs', pairs)
    for (const [to, from] of pairs) to.copyFrom(from)
  }
}

/** @internal `device.capture` */
export function capture<I extends GraphInputs | undefined, O>(
  device: Device,
  fn: (inputs: I) => O,
  inputs: I,
): Graph<I, O> {
  if (typeof fn !== 'function') throw typeError('ERR_OPTION', 'capture', 'a function', shown(fn))
  expectNotRecording('capture')
  return new Graph(made, device, fn, inputs)
}

/** Tensors that belong to no scope around. */
function detached<T>(fn: () => T): T {
  return scoped('capture', fn).result
}

function own(t: Tensor, at: string, device: Device): Tensor {
  if (t.disposed) throw typeError('ERR_DISPOSED', at, 'a live Tensor', 'one that was disposed')
  if (t.device !== device) throw typeError('ERR_DEVICE', at, `a tensor on ${device.name}`, `one on ${t.device.name}`)
  return t.clone()
}

type Kind = 'tensor' | 'array' | 'object'

function kindOf(value: unknown, at: string): Kind {
  if (Tensor.isTensor(value)) return 'tensor'
  if (Array.isArray(value)) return 'array'
  if (typeof value === 'object' && value !== null) {
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype === Object.prototype || prototype === null) return 'object'
  }
  throw typeError('ERR_DTYPE', at, 'a Tensor, or an array or plain object of them', shown(value))
}

const brief = (text: string): string => (text.length > 80 ? `${text.slice(0, 79)}…` : text)

/** The same arrays and objects with other tensors in them. */
function mapped(value: unknown, at: string, change: (t: Tensor, at: string) => Tensor, depth = 0): GraphInputs {
  if (depth > 16) throw rangeError('ERR_SHAPE', 'inputs', 'at most 16 levels of arrays and objects', 'more')
  const kind = kindOf(value, at)
  const item = (name: string, inner: unknown) => mapped(inner, brief(name), change, depth + 1)
  if (kind === 'tensor') return change(value as Tensor, at)
  if (kind === 'array') return Array.from(value as unknown[], (inner, i) => item(`${at}[${i}]`, inner))
  const entries = Object.entries(value as Record<string, unknown>)
  return Object.fromEntries(entries.map(([name, inner]) => [name, item(`${at}.${name}`, inner)]))
}

/** Each tensor of `a` with its counterpart of `b`, which has to be like it. */
function matched(a: GraphInputs, b: unknown, at: string, pairs: [Tensor, Tensor][]): void {
  const kind = kindOf(a, at)
  if (kind !== kindOf(b, at)) {
    const expected = kind === 'tensor' ? 'a Tensor' : kind === 'array' ? 'an array' : 'an object'
    throw typeError('ERR_DTYPE', at, `${expected}, as it was captured with`, shown(b))
  }
  if (kind === 'tensor') {
    expectLike(a as Tensor, b as Tensor, at)
    pairs.push([a as Tensor, b as Tensor])
    return
  }
  const own = Object.entries(a as Record<string, GraphInputs>)
  const given = b as Record<string, GraphInputs>
  const names = Object.keys(given)
  if (names.length !== own.length || !own.every(([name]) => Object.hasOwn(given, name))) {
    const listed = (all: readonly string[]): string =>
      kind === 'array' ? `${all.length} of them` : brief(all.join(', ')) || 'none'
    throw rangeError('ERR_SHAPE', at, `${listed(own.map(([name]) => name))}, as it was captured with`, listed(names))
  }
  for (const [name, item] of own)
    matched(item, given[name]!, brief(kind === 'array' ? `${at}[${name}]` : `${at}.${name}`), pairs)
}

function expectLike(wanted: Tensor, given: Tensor, at: string): void {
  if (given.disposed) throw typeError('ERR_DISPOSED', at, 'a live Tensor', 'one that was disposed')
  if (given.device !== wanted.device) {
    throw typeError('ERR_DEVICE', at, `a tensor on ${wanted.device.name}`, `one on ${given.device.name}`)
  }
  if (given.dtype !== wanted.dtype)
    throw typeError('ERR_DTYPE', at, `${wanted.dtype}, as it was captured with`, given.dtype)
  const shape = (t: Tensor): string => `(${t.shape.join(', ')})`
  if (shape(given) !== shape(wanted)) {
    throw rangeError('ERR_SHAPE', at, `shape ${shape(wanted)}, as it was captured with`, shape(given))
  }
}

const disposeSymbol = (Symbol as unknown as { dispose?: symbol }).dispose ?? Symbol.for('nodejs.dispose')
Object.defineProperty(Graph.prototype, disposeSymbol, {
  value: Graph.prototype.dispose,
  configurable: true,
  writable: true,
})
