import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { showProgress, size } from '../../lib/cli/progress.js'
import { StopText } from '../../lib/cli/stop-text.js'

describe('a stop text', () => {
  // All pieces through a StopText, as the command does it.
  function pass(pieces: string[], words: string[]): string {
    const stop = new StopText(words)
    let shown = ''
    for (const piece of pieces) {
      const { show, found } = stop.push(piece)
      shown += show
      if (found) return shown
    }
    return shown + stop.flush()
  }

  test('ends the text before its first place, wherever the pieces are cut', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 12 })
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(fc.array(letters), fc.array(word, { maxLength: 3 }), (pieces, words) => {
        const text = pieces.join('')
        const places = words.map((w) => text.indexOf(w)).filter((at) => at >= 0)
        // With words of several lengths the one that is complete first ends the text: no word is in what was shown.
        const shown = pass(pieces, words)
        if (places.length === 0) expect(shown).toBe(text)
        else expect(text.startsWith(shown) && words.every((w) => !shown.includes(w))).toBe(true)
        if (words.length === 1 && places.length > 0) expect(shown).toBe(text.slice(0, places[0]))
      }),
    )
  })

  test('holds back no more than could begin it', () => {
    const stop = new StopText(['amen'])
    expect(stop.push('and am').show).toBe('and ')
    expect(stop.push('ong').show).toBe('among')
    expect(stop.push('ame')).toEqual({ show: '', found: false })
    expect(stop.push('n.')).toEqual({ show: '', found: true })
  })
})

describe('progress', () => {
  const at = (tensors: number, bytes: number) => ({ name: 't', tensors, totalTensors: 4, bytes, totalBytes: 4_000_000 })
  function screen(isTTY: boolean) {
    const written: string[] = []
    let time = 0
    const stream = { isTTY, write: (text: string) => written.push(text) } as unknown as NodeJS.WriteStream
    return { written, display: showProgress('loading m', stream, () => time), wait: (ms: number) => (time += ms) }
  }

  test('is a bar on a terminal, cleared at the end', () => {
    const { written, display, wait } = screen(true)
    display.update(at(1, 1_000_000))
    display.update(at(2, 2_000_000)) // too soon to be drawn
    wait(60)
    display.update(at(3, 3_000_000))
    display.update(at(4, 4_000_000))
    display.end()
    expect(written.length).toBe(4)
    expect(written[0]).toBe(`\r\x1b[Kloading m [${'='.repeat(8)}${' '.repeat(22)}] 25%, 4.0 MB`)
    expect(written[2]).toContain('100%')
    expect(written[3]).toBe('\r\x1b[K')
  })

  test('is a line a second elsewhere', () => {
    const { written, display, wait } = screen(false)
    display.update(at(1, 1_000_000))
    wait(1100)
    display.update(at(2, 2_000_000))
    display.update(at(3, 3_000_000))
    display.end()
    expect(written).toEqual(['loading m: 50% of 4.0 MB\n'])
  })

  test('sizes', () => {
    expect([0, 999, 1000, 1_234_567, 6.5e10].map(size)).toEqual(['0 B', '999 B', '1.0 kB', '1.2 MB', '65.0 GB'])
  })
})
