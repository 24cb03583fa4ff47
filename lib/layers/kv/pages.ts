// Memory of paged caches: pages of keys and values that sequences take, share and give back.

import { rangeError, SeqmixError, shown } from '../../errors.js'
import { empty, keep, scope, type Tensor } from '../../index.js'
import { checkOptions, whole } from '../../options.js'
import { bytesIn } from '../state.js'
import type { KVShape } from './kv-cache.js'

/** The pages of one layer: how many sequences have each, and where they lie. */
export class Pages {
  k: Tensor
  v: Tensor
  /** changes when k and v do */
  version = 0
  private readonly users: number[] = []
  private readonly unused: number[] = []

  constructor(
    readonly shape: KVShape,
    readonly pageSize: number,
    pages: number,
    private readonly grows: boolean,
  ) {
    const [k, v] = this.make(pages)
    this.k = k
    this.v = v
    this.add(pages)
  }

  /** pages in all */
  get count(): number {
    return this.users.length
  }

  /** pages that nobody has */
  get free(): number {
    return this.unused.length
  }

  /** A page of the caller's own. ERR_OUT_OF_MEMORY where there is none. */
  take(): number {
    if (this.unused.length === 0) this.grow()
    const page = this.unused.pop()!
    this.users[page] = 1
    return page
  }

  share(page: number): void {
    this.users[page]!++
  }

  giveBack(page: number): void {
    if (--this.users[page]! === 0) this.unused.push(page)
  }

  isShared(page: number): boolean {
    return this.users[page]! > 1
  }

  /** A page of the caller's own with what a shared one holds, which is given back. */
  own(page: number): number {
    const copy = this.take()
    scope(() => {
      for (const t of [this.k, this.v]) t.narrow(0, copy, 1).copyFrom(t.narrow(0, page, 1))
    })
    this.giveBack(page)
    return copy
  }

  tensors(): Tensor[] {
    return [this.k, this.v]
  }

  dispose(): void {
    for (const t of this.tensors()) t.dispose()
  }

  private add(pages: number): void {
    for (let page = this.users.length + pages - 1; page >= this.users.length; page--) this.unused.push(page)
    for (let i = 0; i < pages; i++) this.users.push(0)
  }

  private grow(): void {
    const { count } = this
    if (!this.grows) {
      throw new SeqmixError(
        'ERR_OUT_OF_MEMORY',
        `pool: expected a free page, got none of ${count}: give a cache back, or make it larger`,
      )
    }
    const [k, v] = this.make(2 * count)
    scope(() => {
      k.narrow(0, 0, count).copyFrom(this.k)
      v.narrow(0, 0, count).copyFrom(this.v)
    })
    this.dispose()
    this.k = k
    this.v = v
    this.version++
    this.add(count)
  }

  private make(pages: number): [Tensor, Tensor] {
    const { heads, keyDim, valueDim, dtype, device } = this.shape
    return scope(() => {
      const k = empty([pages, this.pageSize, heads, keyDim], { dtype, device })
      return [keep(k), keep(empty([pages, this.pageSize, heads, valueDim], { dtype, device }))]
    })
  }
}

export interface PagePoolOptions {
  /** Pages of each layer. Where it is given there will be no more of them; else their number doubles when all are taken. */
  pages?: number
  /** Keys of a page: a multiple of 16 (64). */
  pageSize?: number
}

const FIRST_PAGES = 16

/**
 * Memory that paged caches share, a part of it for each layer that asks: `model.newCache(1, { kind: 'paged', pool })`. It
 * is taken in pages as sequences grow, and given back as caches are disposed; what a cache and its clones have in common is there
 * once.
 */
export class PagePool {
  readonly pageSize: number
  private readonly pages: number | undefined
  private readonly layers = new Map<object, Pages>()

  constructor(options: PagePoolOptions = {}) {
    checkOptions(options, ['pages', 'pageSize'])
    this.pages = options.pages === undefined ? undefined : whole(options.pages, 'pages', 0)
    this.pageSize = whole(options.pageSize, 'pageSize', 64)
    if (this.pageSize < 16 || this.pageSize % 16 !== 0)
      throw rangeError('ERR_OPTION', 'pageSize', 'a multiple of 16', shown(this.pageSize))
    if (this.pages === 0) throw rangeError('ERR_OPTION', 'pages', 'a whole number from 1 on', '0')
  }

  /** Pages that nobody has, of the layer that has fewest. */
  get free(): number {
    return Math.min(
      ...[...this.layers.values()].map((layer) => layer.free),
      this.layers.size > 0 ? Infinity : (this.pages ?? 0),
    )
  }

  /** bytes of device memory it holds */
  get bytes(): number {
    return bytesIn(this.tensors())
  }

  /** @internal the pages of a layer */
  of(layer: object, shape: KVShape): Pages {
    let pages = this.layers.get(layer)
    if (!pages) {
      pages = new Pages(shape, this.pageSize, this.pages ?? FIRST_PAGES, this.pages === undefined)
      this.layers.set(layer, pages)
    }
    const { heads, keyDim, valueDim, dtype, device } = pages.shape
    const same = [heads === shape.heads, keyDim === shape.keyDim, valueDim === shape.valueDim, dtype === shape.dtype]
    if (same.includes(false) || device !== shape.device)
      throw rangeError(
        'ERR_OPTION',
        'pool',
        `caches of ${dtype} on ${device.name}`,
        `${shape.dtype} on ${shape.device.name}`,
      )
    return pages
  }

  /** Its memory: a scope that returns the pool leaves it alone. */
  tensors(): Tensor[] {
    return [...this.layers.values()].flatMap((layer) => layer.tensors())
  }

  /** Frees its memory, which no cache may use any more. */
  dispose(): void {
    for (const t of this.tensors()) t.dispose()
  }
}
