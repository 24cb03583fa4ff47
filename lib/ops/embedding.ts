import { type DType, dtypeNumber } from '../dtype.js'
import { native } from '../native.js'
import { checkOptions } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one } from './call.js'

export interface EmbeddingOptions {
  /** Of the result: float32, float16 or bfloat16. By default the table's. */
  dtype?: DType
}

const known = ['dtype'] as const
const names = ['ids', 'table']

/**
 * The rows of `table` (vocabulary, dim), float32, float16 or bfloat16, that `ids` (any shape, int32 or int64) name; returns
 * ids' shape + (dim), in the table's dtype or the one asked for. An id outside the table gives a row of 0, and ERR_INDEX at
 * the next read on the device.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function embedding(ids: TensorInput, table: TensorInput, options: EmbeddingOptions = {}): Tensor {
  checkOptions(options, known)
  const dtype = options.dtype === undefined ? -1 : dtypeNumber(options.dtype)
  return one(call(names, 2, [ids, table], (h) => native.embedding(h[0]!, h[1]!, dtype)))
}
