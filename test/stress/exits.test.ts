// Processes that end with work in flight, thirty times each way: by the code or signal they should, and quickly.
import { availableParallelism } from 'node:os'
import { describe, expect, test } from 'vitest'
import { child, patience, times, type Ended } from './child.js'

interface Expected {
  code?: number
  signal?: NodeJS.Signals
  err?: RegExp
  /** Sent once the child is ready. */
  send?: NodeJS.Signals
}

// Beside the other tests' processes.
const width = Math.max(2, Math.min(8, Math.floor(availableParallelism() / 4)))

async function expectEnd(way: string, expected: Expected, count = 30): Promise<void> {
  await times(count, width, async () => {
    let sent = false
    const ended: Ended = await child('ending-process', [way], {
      seconds: 60,
      onOutput(out, kill) {
        if (expected.send && !sent && out.includes('ready')) kill(expected.send)
        sent ||= out.includes('ready')
      },
    })
    expect(ended.err).toMatch(expected.err ?? /^$/)
    expect(ended).toMatchObject({ code: expected.code ?? null, signal: expected.signal ?? null })
  })
}

describe('a process with work in flight ends', patience, () => {
  test('by process.exit', () => expectEnd('exit', { code: 7 }))
  test('by process.exit a little later', () => expectEnd('exit later', { code: 7 }, 15))
  test('when nothing is waited for', () => expectEnd('end', { code: 7 }))
  test('by an error that nobody catches', () => expectEnd('error', { code: 1, err: /on purpose/ }))
  test('with workers in the middle of kernels', () => expectEnd('exit with workers', { code: 7 }))
  test('with workers that wait for kernels', () => expectEnd('exit with a blocked worker', { code: 7 }, 10))
  test('with workers inside any call', () => expectEnd('exit with busy workers', { code: 7 }, 15))
})

describe('a process that waits for a result', patience, () => {
  test('stays until it is there', () => expectEnd('end after a read', { code: 7 }, 5))
  test('stays until a fence is passed', () => expectEnd('end after a fence', { code: 7 }, 5))
})

describe('a rejection', patience, () => {
  test('that nobody handles ends the process with its code', () =>
    expectEnd('unhandled rejection', { code: 1, err: /ERR_INDEX/ }, 5))
  test('that is handled does not', () => expectEnd('handled rejection', { code: 7 }, 5))
})

describe('SIGINT', patience, () => {
  test('ends a process with work in flight', () => expectEnd('interrupted', { signal: 'SIGINT', send: 'SIGINT' }, 15))
  test('ends a process that waits in native code', () =>
    expectEnd('interrupted while it waits', { signal: 'SIGINT', send: 'SIGINT' }, 10))
  test('reaches a handler that exits', () => expectEnd('interrupted and leaving', { code: 7, send: 'SIGINT' }, 15))
})
