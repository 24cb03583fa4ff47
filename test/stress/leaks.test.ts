// Ten thousand times the same, and memory stays where it was: tensors and bytes exactly, the process's memory but for what
// allocators keep.
import { describe, expect, test } from 'vitest'
import { child, patience } from './child.js'

interface Growth {
  tensors: number
  bytes: number
  rss: number
  heap: number
}

const MiB = 1 << 20

async function growth(what: string, count: number): Promise<Growth> {
  const ended = await child('growing', [what, String(count)], { flags: ['--expose-gc'] })
  expect(ended).toMatchObject({ code: 0, signal: null, err: '' })
  return JSON.parse(ended.out) as Growth
}

// What grows by even a hundred bytes a time passes 10 MiB only after 100 000 times, so JavaScript's heap, which is exact,
// is held to 1 MiB; 24 MiB of the process are a few of the largest blocks that allocators and the collector may keep.
function expectNone(g: Growth): void {
  expect(g).toMatchObject({ tensors: 0, bytes: 0 })
  expect(g.heap / MiB).toBeLessThan(1)
  expect(g.rss / MiB).toBeLessThan(24)
}

describe('nothing grows', patience, () => {
  test('over 10 000 steps of five ops each', async () => expectNone(await growth('ops', 10_000)))
  test('over 10 000 reads', async () => expectNone(await growth('reads', 10_000)))
  test('over 10 000 reads whose promises nobody keeps', async () =>
    expectNone(await growth('dropped promises', 10_000)))
  test('over 3 000 in-place changes of what was handed out', async () => expectNone(await growth('handed out', 3_000)))
  test('over 10 000 calls that fail', async () => expectNone(await growth('errors', 10_000)))
  test('over 4 000 tensors that nobody disposes', async () => expectNone(await growth('undisposed', 1_000)))
  test('over 1 000 graphs', async () => expectNone(await growth('graphs', 1_000)))
  test('over 1 000 generations', async () => expectNone(await growth('generations', 1_000)))
})
