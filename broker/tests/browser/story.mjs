// The broker's page in a real browser. `story.mjs STORY URL …` drives it, prints a line wherever the test has something
// to do meanwhile, and ends with `ok`, or with what was wrong. Nothing waits for a time: every wait is for an event, and
// its time is only what a machine may take for it.
import { createRequire } from 'node:module';
import process from 'node:process';
import readline from 'node:readline';

const { chromium } = createRequire(`${process.env.LONGWIRE_TEST_BROWSER}/`)('playwright-core');
const PATIENCE_MS = 60_000;
// Without these Chromium asks its maker's hosts for this and that.
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (line) => console.log(line);
/** Waits until the test has done its part. */
const told = async () => (await input.next()).value;

function check(holds, what) {
  if (!holds) throw new Error(what);
}

const texts = (page) => page.$$eval('#rows .text', (found) => found.map((text) => text.textContent));
const rows = (page) => page.$$eval('#rows li', (found) => found.map((row) => [Number(row.dataset.offset), row.querySelector('.text').textContent]));
const state = (page, wanted) => page.waitForFunction((wanted) => document.getElementById('state').textContent === wanted, wanted);
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

const stories = {
  /** Follows a session to its close; the test ends brokers in between. Prints what a command said, and every other text, as JSON. */
  async follow(page, url, session, ...marks) {
    await page.goto(`${url}/#/s/${session}`);
    await state(page, 'Waiting');
    say('waiting');
    for (const mark of marks) {
      await page.waitForFunction((mark) => [...document.querySelectorAll('#rows .stdout .text')].some((text) => text.textContent.includes(`${mark}\n`)), mark);
      say(`seen ${mark}`);
      check((await told()) === 'killed', 'the broker was to be killed');
      await state(page, 'No connection, trying again…');
      say('noticed');
    }
    await state(page, 'Closed');
    const shown = (rows) => rows.filter((row) => !row.hidden).map((row) => row.querySelector('.text').textContent);
    const output = (await page.$$eval('#rows .stdout', shown)).join('');
    say(JSON.stringify([output, ...(await page.$$eval('#rows .row:not(.stdout)', shown))]));
    check(await page.$eval('#fields', (fields) => fields.disabled), 'a closed session takes messages');
  },

  /** Shows what wants to be more than text. Prints every text as JSON. */
  async hostile(page, url, session, count) {
    await page.goto(`${url}/#/s/${session}`);
    await page.waitForFunction((count) => document.querySelectorAll('#rows .text').length === count, Number(count));
    say(JSON.stringify(await texts(page)));
    const made = await page.evaluate(() => ({
      elements: [...document.querySelectorAll('#rows *')].map((element) => element.localName),
      classes: [...document.querySelectorAll('#rows li')].map((row) => row.className),
      links: document.querySelectorAll('main#log a').length,
      ran: window.ran,
      title: document.title,
    }));
    const known = ['li', 'time', 'div', 'span'];
    check(made.elements.every((name) => known.includes(name)), `elements were made: ${made.elements}`);
    check(!made.classes.join(' ').includes('unseen'), `a record chose its classes: ${made.classes}`);
    check(made.ran === undefined && made.links === 0, 'a script ran, or a link was made');
    say(made.title);
    check((await overflow(page)) === 0, 'the page is wider than its window');
    // The policy does what it says, should text ever get through as markup.
    const violated = page.evaluate(() => new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective), { once: true });
      const script = document.createElement('script');
      script.textContent = 'window.ran = true';
      document.body.append(script);
    }));
    check((await violated).startsWith('script-src'), `the policy let a script in: ${await violated}`);
    check((await page.evaluate(() => window.ran)) === undefined, 'an inline script ran');
    page.expected = /Content Security Policy/;
  },

  /** Sends messages, one of them while there is no broker. */
  async send(page, url, session) {
    await page.goto(`${url}/#/s/${session}`);
    await state(page, 'Waiting');
    const message = page.getByLabel('Message to the session');
    await message.fill('hello from the page');
    await message.press('Enter');
    await state(page, 'Live');
    await page.waitForFunction(() => document.querySelectorAll('#pending li').length === 0);
    say('sent');
    check((await told()) === 'killed', 'the broker was to be killed');
    await state(page, 'No connection, trying again…');
    await message.fill('two\nlines <b>while it was away</b>');
    await page.getByRole('button', { name: 'Send' }).click();
    await page.waitForFunction(() => document.querySelector('#pending .who').textContent === 'You · sending…');
    say('pending');
    await page.waitForFunction(() => document.querySelectorAll('#pending li').length === 0);
    const shown = await texts(page);
    check(shown.join('|') === 'hello from the page|two\nlines <b>while it was away</b>', `the page shows ${shown}`);
    check((await page.$$eval('#rows .mine', (mine) => mine.length)) === 2, 'its own messages are not marked');
  },

  /** Sends many messages while connections are cut. Prints every text as JSON. */
  async cuts(page, url, session, count) {
    await page.goto(`${url}/#/s/${session}`);
    await state(page, 'Waiting');
    say('waiting');
    check((await told()) === 'cutting', 'connections were to be cut');
    const message = page.getByLabel('Message to the session');
    for (let number = 0; number < Number(count); number++) {
      await message.fill(`message ${number}`);
      await message.press('Enter');
    }
    await page.waitForFunction(() => document.querySelectorAll('#pending li').length === 0);
    say(JSON.stringify(await texts(page)));
  },

  /** Wakes up with a connection that is dead and does not say so. */
  async sleep(page, url, session) {
    await page.goto(`${url}/#/s/${session}`);
    await state(page, 'Live');
    say('live');
    check((await told()) === 'stopped', 'the broker was to be stopped');
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await state(page, 'No connection, trying again…');
    say('noticed');
    check((await told()) === 'published', 'a record was to be published');
    await page.waitForFunction(() => document.querySelectorAll('#rows .text').length === 2);
    await state(page, 'Live');
    check((await texts(page)).join() === 'before,after', `the page shows ${await texts(page)}`);
  },

  /** Scrolls back to the first record, and forth again. */
  async scroll(page, url, session, count) {
    const last = Number(count) - 1;
    const shows = (offset) => page.waitForFunction((offset) => document.querySelector(`#rows li[data-offset="${offset}"]`), offset);
    const dense = async () => {
      const found = await rows(page);
      check(found.length <= 1_000, `${found.length} rows are in the document`);
      found.forEach(([offset, text], index) => {
        check(offset === found[0][0] + index, `after ${index} rows from ${found[0][0]} comes ${offset}`);
        check(text === `line ${offset}`, `record ${offset} is shown as ${text}`);
      });
    };
    await page.goto(`${url}/#/s/${session}`);
    await shows(last);
    await dense();
    const to = async (top, wanted) => {
      for (;;) {
        const edge = await page.evaluate((top) => {
          const log = document.getElementById('log');
          const rows = document.querySelectorAll('#rows li');
          log.scrollTop = top ? 0 : log.scrollHeight;
          return Number(rows[top ? 0 : rows.length - 1].dataset.offset);
        }, top);
        await dense();
        if (edge === wanted) return;
        await page.waitForFunction(([top, edge]) => {
          const rows = document.querySelectorAll('#rows li');
          return Number(rows[top ? 0 : rows.length - 1].dataset.offset) !== edge;
        }, [top, edge]);
      }
    };
    await to(true, 0);
    check(await page.getByRole('button', { name: 'Latest' }).isVisible(), 'there is no way back to the end');
    say('at the start');
    check((await told()) === 'published', 'one more was to be published');
    await dense();
    await to(false, last + 1);
    await to(true, 0);
    await page.getByRole('button', { name: 'Latest' }).click();
    await shows(last + 1);
    await dense();
    check(await page.getByRole('button', { name: 'Latest' }).isHidden(), 'it is not at the end');
    await page.waitForFunction(() => {
      const log = document.getElementById('log');
      return log.scrollHeight - log.scrollTop - log.clientHeight < 2;
    });
  },

  /**
   * Two people share a session by links, which the test gives line by line: one of their own on a laptop, and those that
   * were shared. One of these is revoked in the middle.
   */
  async shared(laptop, url, session) {
    const urls = [];
    const open = async (page, link) => {
      page.on('request', (request) => urls.push(request.url()));
      page.on('websocket', (socket) => urls.push(socket.url()));
      page.secret = link.split('?token=')[1];
      await page.goto(link);
      return page;
    };
    const another = async (link, options = {}) => {
      const page = await (await laptop.context().browser().newContext(options)).newPage();
      page.setDefaultTimeout(PATIENCE_MS);
      page.on('pageerror', (error) => laptop.wrong.push(error.stack));
      return open(page, link);
    };
    const send = async (page, text) => {
      await page.getByLabel('Message to the session').fill(text);
      await page.getByRole('button', { name: 'Send' }).click();
    };
    const shows = (page, wanted) => page.waitForFunction((wanted) =>
      [...document.querySelectorAll('#rows .text')].map((text) => text.textContent).join('|') === wanted.join('|'), wanted);
    const stopped = (page, words) => page.waitForFunction((words) => {
      const [state, note] = ['state', 'note'].map((id) => document.getElementById(id).textContent);
      return state.startsWith('Stopped: ') && state.includes(words) && note.includes(words) && document.getElementById('fields').disabled;
    }, words);
    /** The token is where the page needs it, and nowhere that anybody else looks. */
    const hidden = async (page) => {
      const found = await page.evaluate(() => ({ at: location.href, html: document.documentElement.outerHTML, kept: sessionStorage.getItem('token') }));
      check(found.kept === page.secret, 'the page has not its token');
      check(!found.at.includes('token') && !found.html.includes(page.secret), `the token is shown: ${found.at}`);
      check(found.at.endsWith(`/#/s/${session}`), `the page went to ${found.at}`);
      await page.reload();
      check(!page.url().includes('token'), 'a reload shows the token');
    };

    await open(laptop, await told());
    await state(laptop, 'Waiting');
    const phone = await another(await told(), PHONE);
    await state(phone, 'Waiting');
    await send(laptop, 'from the laptop');
    await shows(phone, ['from the laptop']);
    await send(phone, 'from the phone');
    for (const page of [laptop, phone]) {
      await shows(page, ['from the laptop', 'from the phone']);
      await hidden(page);
      await shows(page, ['from the laptop', 'from the phone']);
      check((await page.evaluate(() => history.length)) <= 2, 'the link is one step back');
    }
    const senders = await laptop.$$eval('#rows .who', (found) => found.map((who) => who.textContent));
    check(senders[0].startsWith('ada') && senders[1].startsWith('guest-'), `nobody sees who it was: ${senders}`);

    // Somebody else's token sees nothing: neither this session nor that there is one.
    const stranger = await another(await told());
    await stranger.waitForFunction(() => document.getElementById('note').textContent.startsWith('There is no such session'));
    await stranger.goto(`${url}/#/`);
    await stranger.locator('#empty').waitFor();
    check((await stranger.$$('#sessions li')).length === 0, 'a list shows sessions of others');

    // Who may only read is told so by the first message.
    const reader = await another(await told());
    await shows(reader, ['from the laptop', 'from the phone']);
    await send(reader, 'a reader writes');
    await reader.waitForFunction(() => document.getElementById('note').textContent.startsWith('You may read this session'));
    check(await reader.$eval('#fields', (fields) => fields.disabled), 'a reader is asked for more messages');
    check((await reader.$eval('#pending .failed .who', (who) => who.textContent)).includes('publish'), 'it is not said what is missing');
    const listed = await another(`${url}/#/?token=${reader.secret}`);
    await listed.locator('#sessions li').first().waitFor();
    check((await listed.$$('#sessions li')).length === 1, 'a guest sees other sessions');
    check(!listed.url().includes('token'), 'the token stays in the address');

    const expired = await another(await told());
    await stopped(expired, 'expired');
    const nobody = await another(`${url}/#/s/${session}`);
    await stopped(nobody, 'You need a link');

    say('sharing');
    check((await told()) === 'revoked', 'the link was to be revoked');
    await stopped(phone, 'revoked');
    const sockets = urls.filter((url) => url.startsWith('ws')).length;
    await send(laptop, 'after');
    await shows(laptop, ['from the laptop', 'from the phone', 'after']);
    await phone.evaluate(() => ['online', 'pageshow', 'visibilitychange'].forEach((name) => window.dispatchEvent(new Event(name))));
    await shows(phone, ['from the laptop', 'from the phone']);
    await stopped(phone, 'revoked');
    check(urls.filter((url) => url.startsWith('ws')).length === sockets, 'a page whose link was revoked connects again');
    check((await overflow(phone)) === 0, 'the phone scrolls sideways');
    await phone.reload();
    await stopped(phone, 'revoked');
    check((await texts(phone)).length === 0, 'it was shown something');
    // Another link in the same tab is another try.
    const again = await told();
    phone.secret = again.split('?token=')[1];
    await phone.evaluate((link) => { location.href = link; }, again);
    await shows(phone, ['from the laptop', 'from the phone', 'after']);
    await hidden(phone);
    check(urls.length > 20 && !urls.some((url) => /token|eyJ/.test(url.replace(/#.*/, ''))), 'a request has a token');
  },

  /** A question reaches a phone by a link, and a form a laptop; each sees what the other answered. */
  async asked(laptop, url, session) {
    const phone = await (await laptop.context().browser().newContext(PHONE)).newPage();
    phone.setDefaultTimeout(PATIENCE_MS);
    phone.on('pageerror', (error) => laptop.wrong.push(error.stack));
    await laptop.goto(await told());
    await phone.goto(await told());
    const cards = (page, count) => page.waitForFunction((count) => document.querySelectorAll('#asks form').length === count, count);
    const row = (page, text) => page.waitForFunction((text) =>
      [...document.querySelectorAll('#rows .text')].some((found) => found.textContent.startsWith(text)), text);
    for (const page of [laptop, phone]) await cards(page, 1);
    check((await phone.$eval('#asks strong', (title) => title.textContent)) === 'Deploy <b>it</b>?', 'the question is not shown as it is');
    check((await overflow(phone)) === 0, 'the question is wider than the phone');
    say('asked');
    await phone.getByRole('button', { name: 'Yes, go' }).tap();
    for (const page of [laptop, phone]) await cards(page, 0), await row(page, 'Answered: yes');
    const who = await laptop.$$eval('#rows .who', (found) => found.at(-1).textContent);
    check(who.startsWith('guest-'), `the laptop does not see who answered: ${who}`);
    say('answered');
    // One that comes while they look, with a form; and one that somebody else answers.
    for (const page of [laptop, phone]) await cards(page, 2);
    const form = laptop.locator('#asks form').first();
    await form.getByLabel('Region').selectOption('eu');
    await form.getByLabel('Count').fill('3');
    await form.getByLabel('Force').check();
    await form.getByRole('button', { name: 'Answer' }).click();
    for (const page of [laptop, phone]) await cards(page, 1);
    say('filled in');
    for (const page of [laptop, phone]) await cards(page, 0), await row(page, 'elsewhere is denied');
    // Who comes later is asked nothing.
    await laptop.reload();
    await row(laptop, 'elsewhere is denied');
    await cards(laptop, 0);
  },

  /** What an agent that works asks is allowed on a phone, by a link, and seen on a laptop. */
  async allowed(laptop, url, session) {
    const phone = await (await laptop.context().browser().newContext(PHONE)).newPage();
    phone.setDefaultTimeout(PATIENCE_MS);
    phone.on('pageerror', (error) => laptop.wrong.push(error.stack));
    await laptop.goto(await told());
    await phone.goto(await told());
    const cards = (page, count) => page.waitForFunction((count) => document.querySelectorAll('#asks form').length === count, count);
    for (const page of [laptop, phone]) await cards(page, 1);
    check((await overflow(phone)) === 0, 'the question is wider than the phone');
    await phone.getByRole('button', { name: 'yes' }).tap();
    for (const page of [laptop, phone]) await cards(page, 0);
    await laptop.waitForFunction(() => [...document.querySelectorAll('#rows li')].some((row) =>
      row.querySelector('.text')?.textContent.startsWith('Answered: yes') && row.querySelector('.who')?.textContent.startsWith('guest-')));
    say('answered');
  },

  /** The list, and what a phone shows of it. */
  async phone(page, url, session, picture) {
    await page.goto(url);
    await page.getByText('Nightly build').waitFor();
    check((await overflow(page)) === 0, 'the list is wider than the phone');
    await page.getByLabel('Show sessions whose id begins with').fill('demo/');
    await page.getByText('Nightly build').waitFor({ state: 'detached' });
    await page.getByText('demo/notes').first().waitFor();
    await page.getByLabel('Show sessions whose id begins with').fill('');
    await page.getByText('Nightly build').click();
    await state(page, 'Live');
    check((await page.title()).startsWith('Nightly build'), 'the title is not shown');
    check((await overflow(page)) === 0, 'the session is wider than the phone');
    const sizes = await page.$$eval('input, textarea', (fields) => fields.map((field) => parseFloat(getComputedStyle(field).fontSize)));
    check(sizes.every((size) => size >= 16), `a phone zooms into fields of ${sizes} pixels`);
    await page.getByLabel('Message to the session').fill('Yes, deploy it.');
    await page.getByRole('button', { name: 'Send' }).tap();
    await page.waitForFunction(() => document.querySelectorAll('#pending li').length === 0);
    if (picture) await page.screenshot({ path: picture });
  },
};

const [story, url, ...rest] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.LONGWIRE_TEST_CHROMIUM, args: ARGUMENTS });
const wrong = [];
try {
  const context = await browser.newContext(story === 'phone' ? PHONE : { viewport: { width: 1_000, height: 700 } });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.wrong = wrong;
  page.on('pageerror', (error) => wrong.push(error.stack));
  // A browser says by itself that it could not connect, and loads the icon of a tab when it likes, also from a broker that is being
  // ended; all else would be the page's.
  const isItsOwn = (message) => /WebSocket connection/.test(message.text()) || message.location().url.endsWith('/icon.svg');
  page.on('console', (message) => isItsOwn(message) || wrong.push(message.text()));
  await stories[story](page, url, ...rest);
  check(wrong.every((message) => page.expected?.test(message)), `the browser complained: ${wrong.join('\n')}`);
  say('ok');
} catch (error) {
  say(error.stack);
  say(wrong.join('\n'));
} finally {
  await browser.close();
  process.exit();
}
