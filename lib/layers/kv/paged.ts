import { cat, flashAttentionWithKvCache, keep, scope, tensor, zeros, type Tensor } from '../../index.js'
import { bytesIn } from '../state.js'
import { checkRows } from './contiguous.js'
import { KVCache, type Attending, type KVShape } from './kv-cache.js'
import type { Pages } from './pages.js'

/** Entries that a block table has at first. */
const FIRST_ENTRIES = 16

/**
 * A cache in pages of a pool's (Kwon et al., PagedAttention, 2023): memory is taken page by page as sequences grow, and nothing
 * is copied for it. A clone shares all pages; one of them that either goes on writing to is copied then. So forks of a context,
 * and prefixes in common, cost a page at most.
 */
export class PagedCache extends KVCache {
  readonly kind = 'kv-paged'
  /** of each sequence, in order */
  private rows: number[][]
  private table: Tensor
  private version: number
  private disposed = false

  /** @internal `mine`: the pages end with the cache and its clones */
  constructor(
    shape: KVShape,
    private readonly pages: Pages,
    private readonly owners: { count: number } | undefined,
    rows: number[][] = Array.from({ length: shape.batch }, () => []),
    length = 0,
  ) {
    super(shape, length)
    if (owners) owners.count++
    this.rows = rows
    this.version = pages.version
    this.table = this.tableOf(Math.max(FIRST_ENTRIES, ...rows.map((row) => row.length)))
  }

  /** pages that its sequences have, shared ones counted for each */
  get pageCount(): number {
    return this.rows.reduce((n, row) => n + row.length, 0)
  }

  /** Bytes of the pages its sequences have, each counted once, and of what tells of them. */
  override get bytes(): number {
    const page = bytesIn(this.pages.tensors()) / this.pages.count
    return new Set(this.rows.flat()).size * page + bytesIn([this.seqlens, this.table])
  }

  /** A fork of the context, which shares its pages. */
  clone(): PagedCache {
    return this.select(this.rows.map((_, i) => i))
  }

  /** A cache whose sequence i goes on from sequence rows[i] of this one: for beams, or many answers to one prompt. */
  select(rows: readonly number[]): PagedCache {
    checkRows(rows, this.batch)
    const taken = rows.map((row) => [...this.rows[row]!])
    for (const page of taken.flat()) this.pages.share(page)
    const shape = { ...this.shape, batch: rows.length }
    return new PagedCache(shape, this.pages, this.owners, taken, this.length).turnedBy(this.rope)
  }

  state(): Record<string, Tensor> {
    return { k: this.gathered(this.pages.k), v: this.gathered(this.pages.v) }
  }

  /** Its own, and those of its pages where no pool of the caller's has them. */
  tensors(): Tensor[] {
    return [this.seqlens, this.table, ...(this.owners ? this.pages.tensors() : [])]
  }

  /** @internal takes what was saved */
  fill(stored: Readonly<Record<string, Tensor>>): void {
    const { pageSize } = this.pages
    this.makeRoom(0)
    scope(() => {
      this.rows.forEach((row, r) => {
        row.forEach((page, i) => {
          const count = Math.min(pageSize, this.length - i * pageSize)
          if (count <= 0) return
          const put = (to: Tensor, from: Tensor): void => {
            const part = from.narrow(0, r, 1).narrow(1, i * pageSize, count)
            to.narrow(0, page, 1).narrow(1, 0, count).copyFrom(part)
          }
          put(this.pages.k, stored.k!)
          put(this.pages.v, stored.v!)
        })
      })
    })
  }

  override dispose(): void {
    if (this.disposed) return
    this.disposed = true
    for (const page of this.rows.flat()) this.pages.giveBack(page)
    this.seqlens.dispose()
    this.table.dispose()
    if (this.owners && --this.owners.count === 0) this.pages.dispose()
  }

  protected hasRoom(tokens: number): boolean {
    const wanted = Math.ceil((this.length + tokens) / this.pages.pageSize)
    return this.rows.every((row) => row.length >= wanted && !this.firstWritten(row).some((p) => this.pages.isShared(p)))
  }

  // Pages for new tokens, all of which are this cache's own.
  protected makeRoom(tokens: number): boolean {
    const wanted = Math.ceil((this.length + tokens) / this.pages.pageSize)
    const first = Math.floor(this.length / this.pages.pageSize)
    let changed = false
    for (const row of this.rows) {
      for (let i = first; i < row.length && tokens > 0; i++) {
        if (!this.pages.isShared(row[i]!)) continue
        row[i] = this.pages.own(row[i]!)
        changed = true
      }
      while (row.length < wanted) {
        row.push(this.pages.take())
        changed = true
      }
    }
    const moved = wanted > this.table.shape[1]! || this.version !== this.pages.version
    this.version = this.pages.version
    if (wanted > this.table.shape[1]!) {
      this.table.dispose()
      this.table = this.tableOf(Math.max(wanted, 2 * this.table.shape[1]!))
    } else if (changed) {
      scope(() => this.table.copyFrom(this.tableOf(this.table.shape[1]!, false)))
    }
    return moved
  }

  protected take(q: Tensor, k: Tensor, v: Tensor, how: Attending): Tensor {
    const options = { ...this.places(how), k, v, blockTable: this.table }
    const out = flashAttentionWithKvCache(q, this.pages.k, this.pages.v, options)
    this.advance(q.shape[1]!)
    return out
  }

  // Pages that no token is left in go back.
  protected override cut(): void {
    const wanted = Math.ceil(this.length / this.pages.pageSize)
    for (const row of this.rows) for (const page of row.splice(wanted)) this.pages.giveBack(page)
  }

  private firstWritten(row: readonly number[]): number[] {
    return row.slice(Math.floor(this.length / this.pages.pageSize))
  }

  private tableOf(width: number, stays = true): Tensor {
    const entries = new Int32Array(this.batch * width)
    this.rows.forEach((row, r) => entries.set(row, r * width))
    const made = tensor(entries, { shape: [this.batch, width], device: this.shape.device })
    return stays ? keep(made) : made
  }

  // (b, length, …) of pages (pages, page, …)
  private gathered(part: Tensor): Tensor {
    const { pageSize } = this.pages
    const [, , ...rest] = part.shape
    if (this.length === 0) return zeros([this.batch, 0, ...rest], { dtype: part.dtype, device: part.device })
    return scope(() => {
      const rows = this.rows.map((row) => {
        const used = row.slice(0, Math.ceil(this.length / pageSize))
        const all = cat(
          used.map((page) => part.narrow(0, page, 1)),
          1,
        )
        return all.narrow(1, 0, this.length)
      })
      return cat(rows, 0)
    })
  }
}
