// Text to token ids and back, by a directory's tokenizer.json, through @huggingface/tokenizers. The package is loaded
// when a directory has such a file, and not before.

import type { Tokenizer } from '@huggingface/tokenizers'

import { damaged } from '../checkpoint/format.js'
import { shown, typeError } from '../errors.js'
import { checkOptions, flag } from '../options.js'
import { readConfig } from './config.js'

export interface EncodeOptions {
  /** add the tokens the tokenizer's template wants around a text (true) */
  addSpecialTokens?: boolean
}

export interface DecodeOptions {
  /** leave out special tokens (false) */
  skipSpecialTokens?: boolean
}

/** A tokenizer read from a model's directory. */
export class TextTokenizer {
  private readonly special: ReadonlySet<number>

  /** @internal */
  constructor(private readonly inner: Tokenizer) {
    const added = [...inner.get_added_tokens_decoder()]
    this.special = new Set(added.filter(([, token]) => token.special).map(([id]) => id))
  }

  /** The ids of a text. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    checkOptions(options, ['addSpecialTokens'])
    const addSpecialTokens =
      options.addSpecialTokens === undefined || flag(options.addSpecialTokens, 'addSpecialTokens')
    if (typeof text !== 'string') throw typeError('ERR_OPTION', 'text', 'a string', shown(text))
    return this.inner.encode(text, { add_special_tokens: addSpecialTokens }).ids
  }

  /**
   * The text of ids, exactly as its tokens spell it: spaces are not tidied up, ids that stand for nothing give nothing,
   * and bytes that are no UTF-8 give U+FFFD.
   */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    checkOptions(options, ['skipSpecialTokens'])
    const skip = flag(options.skipSpecialTokens, 'skipSpecialTokens')
    if (!Array.isArray(ids) && !ArrayBuffer.isView(ids))
      throw typeError('ERR_DTYPE', 'ids', 'a list of ids', shown(ids))
    const known: number[] = []
    for (let i = 0; i < ids.length; i++) {
      const id: unknown = ids[i]
      if (typeof id !== 'number') throw typeError('ERR_DTYPE', `ids[${i}]`, 'a number', shown(id))
      if (this.inner.id_to_token(id) !== undefined && !(skip && this.special.has(id))) known.push(id)
    }
    return known.length === 0 ? '' : this.inner.decode(known, { clean_up_tokenization_spaces: false })
  }

  /** A decoder for ids that come one at a time. */
  stream(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder(this, options)
  }
}

// More U+FFFD than this at the end of a text are no unfinished character but bytes that are none.
const HELD_AT_MOST = 32

/**
 * Decodes ids as they come. Text that may still change with the next id (a character whose bytes are not all there) is
 * held back. What push and flush return makes up, put together, what decoding all ids at once gives.
 */
export class StreamDecoder {
  // A window on the ids: the ones last sent, for what a decoder does at a beginning (many drop its first space), then
  // the ones whose text is not out yet. `sent` counts the characters of the window's text that are out.
  private ids: number[] = []
  private sentIds = 0
  private sent = 0

  /** @internal */
  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly options: DecodeOptions,
  ) {}

  /** Takes one more id, and returns the text that is certain now. */
  push(id: number): string {
    this.ids.push(id)
    const text = this.tokenizer.decode(this.ids, this.options)
    let end = text.length
    while (end > 0 && text[end - 1] === '\uFFFD') end--
    const stray = text.length - end > HELD_AT_MOST
    if (stray) end = text.length - 1
    const certain = text.slice(this.sent, end)
    this.sent = Math.max(this.sent, end)
    if (end === text.length) this.moveWindow(this.ids.slice(this.sentIds), 0)
    else if (stray) this.moveWindow(this.ids.slice(-8), 1)
    return certain
  }

  /** The text held back, when no more ids come. */
  flush(): string {
    const rest = this.tokenizer.decode(this.ids, this.options).slice(this.sent)
    this.moveWindow([], 0)
    return rest
  }

  private moveWindow(ids: number[], held: number): void {
    this.ids = ids
    this.sentIds = ids.length
    this.sent = Math.max(0, this.tokenizer.decode(ids, this.options).length - held)
  }
}

/**
 * The tokenizer of a model's directory, or undefined where it has no tokenizer.json.
 *
 * @throws SeqmixError ERR_CHECKPOINT for a tokenizer.json that cannot be read
 */
export async function loadTokenizer(dir: string): Promise<TextTokenizer | undefined> {
  const json = await readConfig(dir, 'tokenizer.json', false)
  if (!json) return undefined
  const config = await readConfig(dir, 'tokenizer_config.json', false)
  const { Tokenizer } = await import('@huggingface/tokenizers')
  try {
    return new TextTokenizer(new Tokenizer(json.values, config?.values ?? {}))
  } catch (cause) {
    throw damaged(json.file, `cannot be used: ${(cause as Error).message}`, cause)
  }
}
