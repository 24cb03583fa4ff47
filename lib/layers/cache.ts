// What a layer remembers between calls. Every kind of layer has its own cache; all of them can be cloned, saved,
// restored and reset through this interface, so that a model's cache is a list of them.

import { decodeSafetensors, encodeSafetensors, type StoredTensor } from '../checkpoint/index.js'
import { damaged } from '../checkpoint/format.js'
import type { Tensor } from '../index.js'

/** A layer's memory of the sequences it has seen. */
export interface LayerCache {
  /** the layer it belongs to, in small letters: `mamba` */
  readonly kind: string
  /** number of sequences */
  readonly batch: number
  /** bytes of device memory it holds */
  readonly bytes: number
  /** its tensors by name, for saving */
  state(): Record<string, Tensor>
  /** its tensors: a scope that returns the cache leaves them alone */
  tensors(): Tensor[]
  /** an independent copy on the same device */
  clone(): LayerCache
  /** forgets the context: as new */
  reset(): void
  /** frees its tensors; a second call does nothing */
  dispose(): void
}

const FORMAT = 'seqmix-cache-1'

/** Tensors of caches as safetensors bytes, with a note of what they are. */
export async function saveTensors(tensors: Record<string, Tensor>, note: Record<string, string>): Promise<Uint8Array> {
  const entries = Object.entries(tensors).map(async ([name, t]): Promise<[string, StoredTensor]> => {
    return [name, { dtype: t.dtype, shape: t.shape, data: await t.data() }]
  })
  return encodeSafetensors(Object.fromEntries(await Promise.all(entries)), { format: FORMAT, ...note })
}

/** The opposite of {@link saveTensors}: the tensors in host memory and the note. */
export function readTensors(bytes: Uint8Array): {
  tensors: Record<string, StoredTensor>
  note: Readonly<Record<string, string>>
} {
  const { tensors, metadata } = decodeSafetensors(bytes, 'cache')
  if (metadata.format !== FORMAT) {
    throw damaged(
      'cache',
      `expected bytes that a cache's save() returned (format ${FORMAT}), got format ${metadata.format ?? 'nothing'}`,
    )
  }
  return { tensors, note: metadata }
}
