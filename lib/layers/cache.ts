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
  /** what to save, by name: tensors of its own, or others made for it, which the caller frees */
  state(): Record<string, Tensor>
  /** its tensors: a scope that returns the cache leaves them alone */
  tensors(): Tensor[]
  /** an independent copy on the same device */
  clone(): LayerCache
  /** forgets the context: as new */
  reset(): void
  /** frees its tensors; a second call does nothing */
  dispose(): void
  /** tokens that each sequence has, where the cache counts them */
  readonly length?: number
  /**
   * Finds memory for so many more tokens of each sequence, before the layer is asked for them.
   *
   * @returns whether tensors moved or ops changed, so that a step captured before must be captured again
   */
  prepare?(tokens: number): boolean
  /** counts tokens that came by the run of a graph, which the host does not see */
  counted?(tokens: number): void
  /** takes the last tokens of each sequence back; ERR_OPTION for more than rollbackMost */
  rollback?(tokens: number): void
  /** tokens that can be taken back */
  readonly rollbackMost?: number
}

const FORMAT = 'seqmix-cache-1'

/**
 * Tensors of caches as safetensors bytes, with a note of what they are.
 *
 * @param own those that stay; the others, made for saving, are freed
 */
export async function saveTensors(
  tensors: Record<string, Tensor>,
  note: Record<string, string>,
  own: readonly Tensor[] = Object.values(tensors),
): Promise<Uint8Array> {
  const stay = new Set(own)
  const entries = Object.entries(tensors).map(async ([name, t]): Promise<[string, StoredTensor]> => {
    const { dtype, shape } = t
    const data = t.data()
    if (!stay.has(t)) t.dispose()
    return [name, { dtype, shape, data: await data }]
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
