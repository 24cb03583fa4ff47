/**
 * A dense, row-major array of float64 values with up to four indices: all that the reference definitions
 * need to read like their formulas. Nothing here is fast, and nothing here is shared with the library.
 */
export class NDArray {
  readonly data: Float64Array
  readonly strides: readonly number[]

  constructor(
    readonly shape: readonly number[],
    data?: ArrayLike<number>,
  ) {
    const strides = new Array<number>(shape.length)
    let size = 1
    for (let i = shape.length - 1; i >= 0; i--) {
      strides[i] = size
      size *= shape[i]!
    }
    if (data && data.length !== size) throw new Error(`(${shape.join(', ')}) holds ${size} values, got ${data.length}`)
    this.strides = strides
    this.data = data instanceof Float64Array ? data : data ? Float64Array.from(data) : new Float64Array(size)
  }

  get size(): number {
    return this.data.length
  }

  /** The offset of an index; the indices of dimensions left out are 0. */
  offset(i = 0, j = 0, k = 0, l = 0): number {
    const s = this.strides
    return i * (s[0] ?? 0) + j * (s[1] ?? 0) + k * (s[2] ?? 0) + l * (s[3] ?? 0)
  }

  at(i = 0, j = 0, k = 0, l = 0): number {
    return this.data[this.offset(i, j, k, l)]!
  }

  set(value: number, i = 0, j = 0, k = 0, l = 0): void {
    this.data[this.offset(i, j, k, l)] = value
  }

  reshape(shape: readonly number[]): NDArray {
    return new NDArray(shape, this.data)
  }

  clone(): NDArray {
    return new NDArray(this.shape, this.data.slice())
  }

  map(f: (value: number, offset: number) => number): NDArray {
    return new NDArray(this.shape, this.data.map(f))
  }

  /** The part [from, from + length) of dimension dim, as an array of its own. */
  slice(dim: number, from: number, length: number): NDArray {
    const shape = this.shape.map((n, i) => (i === dim ? length : n))
    const outer = this.shape.slice(0, dim).reduce((a, n) => a * n, 1)
    const inner = this.strides[dim]!
    const out = new Float64Array(outer * length * inner)
    for (let o = 0; o < outer; o++) {
      const start = (o * this.shape[dim]! + from) * inner
      out.set(this.data.subarray(start, start + length * inner), o * length * inner)
    }
    return new NDArray(shape, out)
  }

  /** The dimensions in another order: result.shape[i] = shape[order[i]]. */
  permute(order: readonly number[]): NDArray {
    const shape = order.map((d) => this.shape[d]!)
    const strides = order.map((d) => this.strides[d]!)
    const out = new Float64Array(this.size)
    const index = new Array<number>(shape.length).fill(0)
    let at = 0
    for (let i = 0; i < out.length; i++) {
      out[i] = this.data[at]!
      for (let d = shape.length - 1; d >= 0; d--) {
        at += strides[d]!
        if (++index[d]! < shape[d]!) break
        at -= strides[d]! * shape[d]!
        index[d] = 0
      }
    }
    return new NDArray(shape, out)
  }
}

/** Joins arrays along a dimension. */
export function concat(list: readonly NDArray[], dim: number): NDArray {
  const first = list[0]!
  const total = list.reduce((a, x) => a + x.shape[dim]!, 0)
  const out = new NDArray(first.shape.map((n, i) => (i === dim ? total : n)))
  const inner = first.shape.slice(dim + 1).reduce((a, n) => a * n, 1)
  const outer = first.shape.slice(0, dim).reduce((a, n) => a * n, 1)
  let start = 0
  for (const x of list) {
    const run = x.shape[dim]! * inner
    for (let o = 0; o < outer; o++) out.data.set(x.data.subarray(o * run, (o + 1) * run), o * total * inner + start)
    start += run
  }
  return out
}

/** How each operation's result is rounded: not at all (the definition), or to float32 (a plain float32 evaluation). */
export type Round = (x: number) => number
export const exact: Round = (x) => x
export const float32: Round = Math.fround
