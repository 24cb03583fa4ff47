// What a caller may pass by mistake or on purpose, for fast-check; and the calls to pass it to.
import fc from 'fast-check'
import * as seqmix from '../../lib/index.js'
import { dut } from '../support/device.js'

const { Tensor, empty, tensor, zeros } = seqmix

/** Thrown by getters and traps that a test passes in: it may come back, since it is the caller's own. */
export class Trap extends Error {}

const trap = (): never => {
  throw new Trap('sprung')
}

function detached(array: ArrayBufferView): ArrayBufferView {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
  return array
}

/** A resizable buffer, where the engine has them, that shrank under its array. */
function shrunk(): ArrayBufferView {
  const Resizable = ArrayBuffer as unknown as new (n: number, o: { maxByteLength: number }) => ArrayBuffer
  const buffer = new Resizable(32, { maxByteLength: 64 })
  const array = new Float32Array(buffer, 0, 8)
  ;(buffer as { resize?: (n: number) => void }).resize?.(4)
  return array
}

class Liar extends Float32Array {
  override get length(): number {
    return 1e9
  }
  override get byteLength(): number {
    return 1e9
  }
  override get byteOffset(): number {
    return -8
  }
  override get [Symbol.toStringTag](): 'Float32Array' {
    return 'Int32Array' as never
  }
}

/** Says another number each time it is asked. */
function fickle(values: readonly unknown[]): unknown[] {
  let asked = 0
  return new Proxy([1, 1], {
    get: (target, key) => (key === '0' || key === '1' ? values[asked++ % values.length] : Reflect.get(target, key)),
  })
}

const cyclic: unknown[] = []
cyclic.push(cyclic)
const pollutedLike = JSON.parse('{"__proto__": {"dtype": "int32"}, "constructor": 5}') as object

/** Makers rather than values, since some are used up. The names are for messages. */
export const hostile: Record<string, () => unknown> = {
  null: () => null,
  undefined: () => undefined,
  true: () => true,
  text: () => 'float32',
  'long text': () => 'x'.repeat(1e5),
  0: () => 0,
  '-1': () => -1,
  1.5: () => 1.5,
  NaN: () => NaN,
  Infinity: () => Infinity,
  '2^31': () => 2 ** 31,
  '2^53': () => 2 ** 53,
  '-2^63': () => -(2 ** 63),
  bigint: () => 7n,
  'huge bigint': () => 10n ** 400n,
  symbol: () => Symbol('s'),
  function: () => trap,
  object: () => ({}),
  'no prototype': () => Object.create(null) as object,
  'a prototype of its own': () => pollutedLike,
  date: () => new Date(0),
  map: () => new Map([['shape', [1]]]),
  'empty array': () => [],
  'array of a hole': () => [, 1] as unknown[], // eslint-disable-line no-sparse-arrays
  'array of text': () => ['1', '2'],
  'array of huge': () => [2 ** 31, 2 ** 31],
  'array of huger': () => [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1],
  'huge beside 0': () => [2 ** 53 - 1, 0],
  'array of -1': () => [-1, -1],
  'array of NaN': () => [NaN, 2],
  'ragged array': () => [[1, 2], [3]],
  'ragged deeper': () => [1, [2]],
  'deep array': () => Array.from({ length: 100 }).reduce<unknown>((inner) => [inner], 1),
  'cyclic array': () => cyclic,
  'sparse array': () => new Array(2 ** 32 - 1),
  'fickle array': () => fickle([1, 2, -4, NaN, 'x', 1e300]),
  'throwing array': () => new Proxy([1, 2], { get: trap }),
  'throwing object': () => new Proxy({}, { get: trap, has: trap, ownKeys: trap, getPrototypeOf: trap }),
  float32: () => new Float32Array([1, NaN, -Infinity, 1e38]),
  float64: () => new Float64Array([1, 1e300]),
  int8: () => new Int8Array(4),
  uint8: () => new Uint8Array(4),
  uint16: () => new Uint16Array(4),
  int32: () => new Int32Array([0, -1, 2 ** 31 - 1, -(2 ** 31)]),
  int64: () => new BigInt64Array([0n, -1n, 2n ** 63n - 1n]),
  uint64: () => new BigUint64Array(2),
  'node buffer': () => Buffer.from('abcdefgh'),
  dataview: () => new DataView(new ArrayBuffer(8)),
  'array buffer': () => new ArrayBuffer(8),
  'shared memory': () => new Float32Array(new SharedArrayBuffer(16)),
  detached: () => detached(new Float32Array(4)),
  'detached float64': () => detached(new Float64Array(4)),
  shrunk,
  liar: () => new Liar(4),
  'tensor-like': () => ({ type: 'float32', data: new Float32Array(6), dims: [2, 3] }),
  'tensor-like that lies': () => ({ type: 'float32', data: new Float32Array(6), dims: [2, 4] }),
  'tensor-like of fickle dims': () => ({ type: 'float32', data: new Float32Array(4), dims: fickle([2, 2, -2, -2]) }),
  'tensor-like of no dims': () => ({ type: 'float32', data: new Float32Array(6), dims: 'abc' }),
  'tensor-like of its own type': () => ({ type: 'complex64', data: new Float32Array(6), dims: [6] }),
  'tensor-like of mixed types': () => ({ type: 'int64', data: new Float32Array(6), dims: [6] }),
  'tensor-like of detached data': () => ({ type: 'float32', data: detached(new Float32Array(4)), dims: [4] }),
  'tensor-like that throws': () => ({ type: 'float32', dims: [2], get data() { return trap() } }), // prettier-ignore
  'tensor-like of itself': () => {
    const t: Record<string, unknown> = { type: 'float32', dims: [1] }
    return Object.assign(t, { data: t })
  },
  'class Tensor': () => Tensor,
  'an empty Tensor': () => Object.create(Tensor.prototype) as unknown,
  'an empty Device': () => Object.create(seqmix.Device.prototype) as unknown,
  device: () => dut,
  scalar: () => tensor(3),
  'no elements': () => zeros([0, 4]),
  'huge without elements': () => zeros([2 ** 40, 0, 2 ** 40]),
  'bool tensor': () => zeros([2, 3], { dtype: 'bool' }),
  'int32 tensor': () => tensor([0, -1, 2 ** 31 - 1], { dtype: 'int32' }),
  'int64 tensor': () => tensor([0n, 5n], { dtype: 'int64' }),
  'float16 tensor': () => zeros([2, 3], { dtype: 'float16' }),
  '8 dimensions': () => zeros([1, 2, 1, 2, 1, 2, 1, 2]),
  'a view with gaps': () => zeros([4, 6]).transpose(0, 1).narrow(0, 1, 3),
  'NaN tensor': () => tensor([[NaN, Infinity, -Infinity]]),
  disposed: () => {
    const t = empty([2, 3])
    t.dispose()
    return t
  },
}

export const anything = fc.constantFrom(...Object.keys(hostile))

const f32 = (...shape: number[]): unknown =>
  empty(shape).copyFrom(new Float32Array(shape.reduce((n, m) => n * m, 1)).fill(0.5))
const i32 = (values: number[]): unknown => tensor(values, { dtype: 'int32' })

/** A function of the caller's whose errors are known to be its own. */
export function own(f: unknown): () => unknown {
  if (typeof f !== 'function') return f as () => unknown
  return () => {
    try {
      return (f as () => unknown)()
    } catch {
      return trap()
    }
  }
}

const twoInputs = () =>
  dut.capture(({ a, b: [i] }) => [seqmix.silu(a), i], {
    a: f32(2, 3) as seqmix.Tensor,
    b: [i32([1]) as seqmix.Tensor],
  })

/** A call with good arguments; tests make some of them hostile. Option names that end in ? are misspelled ones. */
export interface Call {
  run: (...args: never[]) => unknown
  args: () => unknown[]
  options?: () => Record<string, unknown>
}

export const calls: Record<string, Call> = {
  tensor: {
    run: seqmix.tensor,
    args: () => [new Float32Array(6)],
    options: () => ({ shape: [2, 3], dtype: 'float32', device: 'cpu' }),
  },
  'tensor of a Tensor': {
    run: seqmix.tensor,
    args: () => [f32(2, 3)],
    options: () => ({ shape: [6], dtype: 'int32', device: dut }),
  },
  empty: { run: seqmix.empty, args: () => [[2, 3]], options: () => ({ dtype: 'float32', device: 'cpu' }) },
  zeros: { run: seqmix.zeros, args: () => [[2, 3]], options: () => ({ dtype: 'int64', device: dut }) },
  cat: { run: seqmix.cat, args: () => [[f32(2, 3), f32(2, 3)], 1] },
  'cat of one': { run: (a: never, dim: never) => seqmix.cat([a], dim), args: () => [f32(2, 3), 0] },
  keep: { run: (t: never) => (seqmix.keep(t) as seqmix.Tensor).dispose(), args: () => [f32(2)] },
  scope: { run: (x: never) => seqmix.scope(() => [x, f32(3)]), args: () => [f32(2)] },
  'scope itself': { run: (f: never) => seqmix.scope(own(f)), args: () => [() => f32(2)] },
  device: { run: seqmix.device, args: () => [dut.name] },
  'new Device': { run: (...a: never[]) => Reflect.construct(seqmix.Device, a), args: () => [1, 2] },
  'new Tensor': { run: (...a: never[]) => Reflect.construct(Tensor, a), args: () => [1, 2] },
  setThreads: { run: seqmix.setThreads, args: () => [2] },
  lastKernel: { run: seqmix.debug.lastKernel, args: () => [dut] },
  poison: { run: seqmix.debug.poison, args: () => [false] },
  reshape: { run: (...s: never[]) => zeros([2, 6]).reshape(...s), args: () => [3, -1] },
  'reshape of a list': { run: (s: never) => zeros([2, 6]).transpose(0, 1).reshape(s), args: () => [[4, 3]] },
  narrow: { run: (...a: [never, never, never]) => zeros([2, 6]).narrow(...a), args: () => [1, 2, 3] },
  transpose: { run: (...a: [never, never]) => zeros([2, 6]).transpose(...a), args: () => [0, 1] },
  to: { run: (a: never) => zeros([2, 6]).to(a), args: () => ['int32'] },
  copyFrom: { run: (a: never) => empty([2, 3]).copyFrom(a), args: () => [f32(2, 3)] },
  'copyFrom of bool': {
    run: (a: never) => empty([2, 3], { dtype: 'bool' }).copyFrom(a),
    args: () => [new Uint8Array(6)],
  },
  silu: { run: seqmix.silu, args: () => [f32(2, 3)] },
  softcap: { run: seqmix.softcap, args: () => [f32(2, 3), 2] },
  gelu: { run: seqmix.gelu, args: () => [f32(2, 3)], options: () => ({ approximate: 'tanh' }) },
  rotary: {
    run: seqmix.rotary,
    args: () => [f32(1, 2, 3, 4), f32(2, 2), f32(2, 2)],
    options: () => ({ interleaved: true, positions: i32([1, 0]) }),
  },
  add: { run: seqmix.add, args: () => [f32(2, 3), f32(3)] },
  mul: { run: seqmix.mul, args: () => [f32(2, 1), [[1, 2, 3]]], options: () => ({ activation: 'silu' }) },
  softmax: { run: seqmix.softmax, args: () => [f32(2, 3)], options: () => ({ dim: 0 }) },
  argmax: { run: seqmix.argmax, args: () => [f32(2, 3)] },
  topk: { run: seqmix.topk, args: () => [f32(2, 3), 2] },
  sample: {
    run: seqmix.sample,
    args: () => [f32(2, 3)],
    options: () => ({ temperature: 0.7, topK: 2, topP: 0.9, seed: 1, step: 2n }),
  },
  'sample by a counter': { run: seqmix.sample, args: () => [f32(2, 3)], options: () => ({ step: i32([5]) }) },
  increment: { run: seqmix.increment, args: () => [i32([1, 2]), 3] },
  capture: {
    run: (...a: [never, never]) => {
      const graph = dut.capture(own(a[0]), a[1])
      try {
        graph.run()
      } finally {
        graph.dispose()
      }
    },
    args: () => [() => f32(2), { a: f32(2, 3), b: [i32([1])] }],
  },
  'run of a graph': {
    run: (inputs: never) => {
      const graph = twoInputs()
      try {
        graph.run(inputs)
      } finally {
        graph.dispose()
      }
    },
    args: () => [{ a: f32(2, 3), b: [i32([2])] }],
  },
  'inputs of a run': {
    run: (a: never, b: never) => {
      const graph = twoInputs()
      try {
        graph.run({ a, b: [b] })
      } finally {
        graph.dispose()
      }
    },
    args: () => [f32(2, 3), i32([2])],
  },
  rmsNorm: {
    run: seqmix.rmsNorm,
    args: () => [f32(2, 3), f32(3)],
    options: () => ({
      eps: 1e-6,
      residual: f32(2, 3),
      residualInFp32: true,
      z: f32(2, 3),
      groupSize: 3,
      normBeforeGate: true,
    }),
  },
  linear: {
    run: seqmix.linear,
    args: () => [f32(2, 3), f32(4, 3)],
    options: () => ({ bias: f32(4), activation: 'silu', residual: f32(2, 4) }),
  },
  embedding: {
    run: seqmix.embedding,
    args: () => [i32([0, 1, 1]), f32(2, 3)],
    options: () => ({ dtype: 'bfloat16' }),
  },
  causalConv1d: {
    run: seqmix.causalConv1d,
    args: () => [f32(2, 3, 5), f32(3, 4)],
    options: () => ({
      bias: f32(3),
      activation: 'silu',
      initialStates: f32(2, 3, 3),
      seqIdx: zeros([2, 5], { dtype: 'int32' }),
      returnFinalStates: true,
    }),
  },
  causalConv1dUpdate: {
    run: seqmix.causalConv1dUpdate,
    args: () => [f32(2, 3), f32(3, 3, 5), f32(3, 4)],
    options: () => ({ bias: f32(3), activation: null, cacheSeqlens: i32([3, -9]), stateIndices: i32([2, -1]) }),
  },
  selectiveScan: {
    run: seqmix.selectiveScan,
    args: () => [f32(2, 4, 5), f32(2, 4, 5), f32(4, 3), f32(2, 3, 5), f32(2, 2, 3, 5)],
    options: () => ({
      D: f32(4),
      z: f32(2, 4, 5),
      deltaBias: f32(4),
      deltaSoftplus: true,
      initialState: f32(2, 4, 3),
      seqIdx: zeros([2, 5], { dtype: 'int32' }),
      returnLastState: true,
    }),
  },
  ssdChunkScan: {
    run: seqmix.ssdChunkScan,
    args: () => [f32(2, 5, 4, 3), f32(2, 5, 4), f32(4), f32(2, 5, 2, 6), f32(2, 5, 2, 6)],
    options: () => ({
      chunkSize: 32,
      D: f32(4, 3),
      z: f32(2, 5, 4, 3),
      dtBias: f32(4),
      dtSoftplus: true,
      dtLimit: [0.001, 0.1],
      initialStates: f32(2, 4, 3, 6),
      seqIdx: zeros([2, 5], { dtype: 'int32' }),
      returnFinalStates: true,
      mode: 'chunked',
    }),
  },
  selectiveStateUpdate: {
    run: seqmix.selectiveStateUpdate,
    args: () => [f32(3, 4, 5), f32(2, 4), f32(2, 4), f32(4, 5), f32(2, 5), f32(2, 2, 5)],
    options: () => ({ D: f32(4), z: f32(2, 4), dtBias: f32(4), dtSoftplus: true, stateIndices: i32([0, -5]) }),
  },
}
