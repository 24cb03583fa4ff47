import { SeqmixError } from './errors.js'
import { loadAddon } from './loader.js'

/** What stands behind a Tensor: the addon's own object, of no use to JavaScript. */
export type Handle = { readonly __handle: unique symbol }
/** What stands behind a Graph. */
export type CaptureHandle = { readonly __capture: unique symbol }
type Optional = Handle | undefined

/** How attention's scores become weights. */
export type Scores = [
  alibiSlopes: Optional,
  sinks: Optional,
  causal: boolean,
  windowLeft: number,
  windowRight: number,
  softcap: number,
  scale: number,
  returnLse: boolean,
]

export interface NativeDevice {
  name: string
  available: boolean
  reason?: string
  processor?: string
  target?: string
  memory?: number
  threads?: number
}

/** The addon's functions. Devices are numbers: 0 is the CPU, 1 + i is cuda:i. Dtypes are indices into `dtypes`. */
export interface Native {
  init(seqmixError: typeof SeqmixError, cudaLibrary: string): void
  devices(): NativeDevice[]
  openDevice(device: number): void
  synchronize(device: number): Promise<void>
  synchronizeSync(device: number): void
  memory(device: number): [tensors: number, bytes: number]
  setThreads(n: number): void
  lastKernel(device: number): string
  poison(on: boolean): void
  ceiling(device: number, name: string): number

  beginCapture(device: number): CaptureHandle
  stopCapture(capture: CaptureHandle): void
  runCapture(capture: CaptureHandle): void
  endCapture(capture: CaptureHandle): void

  empty(device: number, dtype: number, shape: readonly number[]): Handle
  zeros(device: number, dtype: number, shape: readonly number[]): Handle
  fromHost(device: number, dtype: number, shape: readonly number[], data: ArrayBufferView): Handle
  dispose(tensor: Handle): void
  disposed(tensor: Handle): boolean
  describe(tensor: Handle): [shape: number[], strides: number[], dtype: number, device: number]
  reshape(tensor: Handle, shape: readonly number[]): Handle | undefined
  narrow(tensor: Handle, dim: number, from: number, length: number): Handle
  transpose(tensor: Handle, a: number, b: number): Handle
  alias(tensor: Handle): Handle
  converted(tensor: Handle, dtype: number): Handle
  contiguousView(tensor: Handle): Handle | undefined
  toDevice(tensor: Handle, device: number): Handle
  copyFrom(target: Handle, source: Handle): void
  read(tensor: Handle): Promise<ArrayBuffer>
  readSync(tensor: Handle): ArrayBuffer

  selectiveScan(
    u: Handle,
    delta: Handle,
    A: Handle,
    B: Handle,
    C: Handle,
    D: Optional,
    z: Optional,
    deltaBias: Optional,
    initialState: Optional,
    seqIdx: Optional,
    deltaSoftplus: boolean,
    returnLastState: boolean,
  ): Handle | [Handle, Handle]
  selectiveStateUpdate(
    state: Handle,
    x: Handle,
    dt: Handle,
    A: Handle,
    B: Handle,
    C: Handle,
    D: Optional,
    z: Optional,
    dtBias: Optional,
    stateIndices: Optional,
    dtSoftplus: boolean,
  ): Handle
  ssdChunkScan(
    x: Handle,
    dt: Handle,
    A: Handle,
    B: Handle,
    C: Handle,
    D: Optional,
    z: Optional,
    dtBias: Optional,
    initialStates: Optional,
    seqIdx: Optional,
    dtSoftplus: boolean,
    dtMin: number,
    dtMax: number,
    chunkSize: number,
    mode: number,
    returnFinalStates: boolean,
  ): Handle | [Handle, Handle]
  causalConv1d(
    x: Handle,
    weight: Handle,
    bias: Optional,
    initialStates: Optional,
    seqIdx: Optional,
    activation: number,
    returnFinalStates: boolean,
  ): Handle | [Handle, Handle]
  causalConv1dUpdate(
    x: Handle,
    convState: Handle,
    weight: Handle,
    bias: Optional,
    cacheSeqlens: Optional,
    stateIndices: Optional,
    activation: number,
  ): Handle
  softmax(x: Handle): Handle
  argmax(x: Handle): Handle
  topk(x: Handle, k: number): [Handle, Handle]
  sample(
    logits: Handle,
    temperature: number,
    topK: number,
    topP: number,
    seed: bigint,
    step: bigint,
    counter: Optional,
  ): Handle
  rmsNorm(
    x: Handle,
    weight: Optional,
    residual: Optional,
    z: Optional,
    eps: number,
    groupSize: number,
    residualInFp32: boolean,
    normBeforeGate: boolean,
  ): Handle | [Handle, Handle]
  linear(x: Handle, weight: Handle, bias: Optional, residual: Optional, activation: number): Handle
  embedding(ids: Handle, table: Handle, dtype: number): Handle
  silu(x: Handle): Handle
  add(a: Handle, b: Handle): Handle
  mul(a: Handle, b: Handle, activation: number): Handle
  gelu(x: Handle, tanh: boolean): Handle
  softcap(x: Handle, cap: number): Handle
  rotary(x: Handle, cos: Handle, sin: Handle, positions: Optional, interleaved: boolean): Handle
  flashAttention(q: Handle, k: Handle, v: Handle, ...scores: Scores): Handle | [Handle, Handle]
  flashAttentionVarlen(
    q: Handle,
    k: Handle,
    v: Handle,
    cuSeqlensQ: Handle,
    cuSeqlensK: Optional,
    seqUsedK: Optional,
    blockTable: Optional,
    ...rest: [...scores: Scores, maxSeqlenQ: number, maxSeqlenK: number]
  ): Handle | [Handle, Handle]
  flashAttentionWithKvCache(
    q: Handle,
    kCache: Handle,
    vCache: Handle,
    k: Optional,
    v: Optional,
    cacheSeqlens: Optional,
    rotaryCos: Optional,
    rotarySin: Optional,
    cacheBatchIdx: Optional,
    blockTable: Optional,
    cuSeqlensQ: Optional,
    leftPad: Optional,
    kScale: Optional,
    vScale: Optional,
    ...rest: [...scores: Scores, rotaryInterleaved: boolean, numSplits: number, maxSeqlenQ: number]
  ): Handle | [Handle, Handle]
  increment(t: Handle, by: bigint): void
}

const loaded = loadAddon()

/** The addon, loaded once for each environment. */
export const native = loaded.exports as Native
native.init(SeqmixError, loaded.cudaLibrary)
