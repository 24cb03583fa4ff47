import { tensor, type DType, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { dut, toTypedArray } from './device.js'

/**
 * How values lie in memory: `plain`; `offset`, narrowed from longer rows so that neither the first element nor any row is
 * aligned; `swapped`, the last two dimensions exchanged in memory, as a transposed view; `fused`, the same, narrowed from
 * wider rows, as a part of a fused projection's output is; `rows`, narrowed from more rows (or channels);
 * `reversed`, all dimensions in opposite order, so that no usual dimension has stride one.
 */
export type Layout = 'plain' | 'offset' | 'swapped' | 'fused' | 'rows' | 'reversed'
export const layouts = ['plain', 'offset', 'swapped', 'fused', 'rows', 'reversed'] as const

/** A view of these values laid out so; what lies around it in memory is NaN (or far out of range), to be seen if it is read. */
export function place(a: NDArray, layout: Layout, dtype: DType = 'float32'): Tensor {
  const rank = a.shape.length
  const order = a.shape.map((_, i) => i) // memory position → logical dimension
  const pad = a.shape.map(() => [0, 0] as [number, number])
  const [last, row] = [rank - 1, Math.max(rank - 2, 0)]
  if (layout === 'swapped' || layout === 'fused') [order[last], order[row]] = [row, last]
  if (layout === 'reversed') order.reverse()
  if (layout === 'offset') pad[last] = [1, 2]
  if (layout === 'fused') pad[row] = [3, 2]
  if (layout === 'rows') pad[row] = [1, 1]

  const around = dtype === 'int32' || dtype === 'int64' ? 0x3fffffff : NaN
  const memory = surround(a, pad, around).permute(order)
  let view = tensor(toTypedArray(memory, dtype), { shape: [...memory.shape], dtype, device: dut })
  for (let i = 0; i < rank; i++) {
    const at = order.indexOf(i)
    if (at === i) continue
    view = view.transpose(i, at)
    ;[order[i], order[at]] = [order[at]!, order[i]!]
  }
  pad.forEach(([before, after], dim) => {
    if (before + after > 0) view = view.narrow(dim, before, a.shape[dim]!)
  })
  return view
}

function surround(a: NDArray, pad: readonly [number, number][], value: number): NDArray {
  const rank = a.shape.length
  const out = new NDArray(a.shape.map((n, i) => n + pad[i]![0] + pad[i]![1]))
  out.data.fill(value)
  for (let at = 0; at < a.size; at++) {
    let [rest, to] = [at, 0]
    for (let i = rank - 1; i >= 0; i--) {
      to += ((rest % a.shape[i]!) + pad[i]![0]) * out.strides[i]!
      rest = Math.floor(rest / a.shape[i]!)
    }
    out.data[to] = a.data[at]!
  }
  return out
}
