// Worker threads that end, or are ended, at the worst moment: thirty times each, and the process lives on.
import { describe, expect, test } from 'vitest'
import { child, patience } from './child.js'

async function expectSurvived(mode: string, rounds = 30, width = 1): Promise<void> {
  const ended = await child('ending-workers', [mode, String(rounds), String(width)], { flags: ['--expose-gc'] })
  expect(ended).toEqual({ code: 0, signal: null, out: 'ok\n', err: '' })
}

describe('a worker that is terminated', patience, () => {
  test('in the middle of a kernel, a read pending', () => expectSurvived('kernel'))
  test('in the middle of a kernel that it waits for', () => expectSurvived('blocked'))
  test('with a long queue and many reads pending', () => expectSurvived('queue'))
  test('inside any native call', () => expectSurvived('busy', 60, 2))
  test('while promises settle', () => expectSurvived('promises'))
  test('while its graphs run', () => expectSurvived('graphs', 40, 2))
  test('inside a captured function', () => expectSurvived('capturing'))
  test('while it holds arrays over the memory of tensors', () => expectSurvived('arrays'))
})

describe('a worker that ends with work in flight', patience, () => {
  test('by an error', () => expectSurvived('uncaught'))
  test('by process.exit', () => expectSurvived('exits'))
  test('by running out of things to do', () => expectSurvived('ends'))
})

describe('workers and the main thread at once', patience, () => {
  test('get the same bits', () => expectSurvived('compute', 30, 4))
  test('four that are terminated mid-kernel', () => expectSurvived('kernel', 32, 4))
})
