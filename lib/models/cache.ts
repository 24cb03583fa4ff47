import { damaged } from '../checkpoint/format.js'
import { rangeError, SeqmixError, shown } from '../errors.js'
import { device as findDevice, type Device, type Tensor } from '../index.js'
import type { StoredTensor } from '../checkpoint/index.js'
import { readTensors, saveTensors } from '../layers/cache.js'
import { kvKinds } from '../layers/kv/index.js'
import { Mamba2Cache, MambaCache, type LayerCache } from '../layers/index.js'

// How a layer's cache comes back from bytes, by its kind.
const KINDS: Readonly<Record<string, (tensors: Readonly<Record<string, StoredTensor>>, device: Device) => LayerCache>> =
  {
    mamba: (tensors, device) => MambaCache.fromStored(tensors, device),
    mamba2: (tensors, device) => Mamba2Cache.fromStored(tensors, device),
    ...kvKinds,
  }

/**
 * What a model remembers of the sequences of a batch: a cache for each of its layers. Made by `model.newCache(batch)`.
 */
export class ModelCache {
  constructor(
    /** one for each layer that remembers something */
    readonly layers: readonly LayerCache[],
  ) {}

  /**
   * A cache as {@link save} left it.
   *
   * @param bytes what save() returned
   * @param device where the cache goes; by default the best device
   * @throws SeqmixError ERR_CHECKPOINT where the bytes are damaged or of something else
   */
  static restore(bytes: Uint8Array, device?: Device | string): ModelCache {
    const { tensors, note } = readTensors(bytes)
    if (note.kind !== 'model') throw damaged('cache', `expected the cache of a model, got ${note.kind ?? 'nothing'}`)
    const kinds = (note.layers ?? '').split(',')
    const target = findDevice(device)
    const layers: LayerCache[] = []
    try {
      kinds.forEach((kind, i) => {
        const restore = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined
        if (!restore)
          throw damaged('cache', `layer ${i}: expected the cache of ${Object.keys(KINDS).join(' or ')}, got '${kind}'`)
        const entries = Object.entries(tensors).filter(([name]) => name.startsWith(`${i}.`))
        layers.push(restore(Object.fromEntries(entries.map(([name, t]) => [name.slice(`${i}.`.length), t])), target))
      })
    } catch (error) {
      for (const layer of layers) layer.dispose()
      throw error
    }
    return new ModelCache(layers)
  }

  /** number of sequences */
  get batch(): number {
    return this.layers[0]?.batch ?? 0
  }

  /** tokens that each sequence has; undefined where no layer counts them */
  get length(): number | undefined {
    return this.layers.find((layer) => layer.length !== undefined)?.length
  }

  /**
   * Finds memory for so many more tokens of each sequence, so that they wait for none. (forward and generate do so by
   * themselves, as tokens come.)
   *
   * @returns whether tensors moved, so that a step captured before must be captured again
   */
  prepare(tokens: number): boolean {
    return this.layers.map((layer) => layer.prepare?.(tokens) ?? false).includes(true)
  }

  /** Counts tokens that came by the run of a graph, which does not count them itself. */
  counted(tokens: number): void {
    for (const layer of this.layers) layer.counted?.(tokens)
  }

  /**
   * Takes the last tokens of each sequence back, as if they had not come.
   *
   * @throws ERR_UNSUPPORTED where a layer keeps a state from which nothing can be taken; RangeError ERR_OPTION for more tokens
   *   than all layers still have what was before
   */
  rollback(tokens: number): void {
    const stuck = this.layers.find((layer) => !layer.rollback)
    if (stuck) {
      const message = `rollback: expected layers that keep tokens apart, got one of kind '${stuck.kind}'; clone() the cache before`
      throw new SeqmixError('ERR_UNSUPPORTED', message)
    }
    const most = Math.min(...this.layers.map((layer) => layer.rollbackMost ?? Infinity))
    if (!Number.isSafeInteger(tokens) || tokens < 0 || tokens > most)
      throw rangeError('ERR_OPTION', 'tokens', `a whole number from 0 to ${most}`, shown(tokens))
    for (const layer of this.layers) layer.rollback!(tokens)
  }

  /** bytes of device memory it holds */
  get bytes(): number {
    return this.layers.reduce((n, layer) => n + layer.bytes, 0)
  }

  /** An independent copy on the same device: a fork of the context. */
  clone(): ModelCache {
    return new ModelCache(this.layers.map((layer) => layer.clone()))
  }

  /** The cache as the bytes of a safetensors file. */
  save(): Promise<Uint8Array> {
    const entries = this.layers.flatMap((layer, i) => {
      return Object.entries(layer.state()).map(([name, t]) => [`${i}.${name}`, t] as const)
    })
    const note = { kind: 'model', layers: this.layers.map((l) => l.kind).join(',') }
    return saveTensors(Object.fromEntries(entries), note, this.tensors())
  }

  /** Its tensors: a scope that returns the cache leaves them alone. */
  tensors(): Tensor[] {
    return this.layers.flatMap((layer) => layer.tensors())
  }

  /** Forgets the context. */
  reset(): void {
    for (const layer of this.layers) layer.reset()
  }

  /** Frees its tensors; a second call does nothing. */
  dispose(): void {
    for (const layer of this.layers) layer.dispose()
  }
}
