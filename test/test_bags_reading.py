# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every way that a bag is written or ends is read as far as it goes, and what is lost is told."""
import shutil
import sqlite3
from binascii import crc32
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from quantvla_ros.errors import BagError
from quantvla_ros.observation.bag_files import bag_hash
from quantvla_ros.observation.bags import Bag, Undecodable

STORE = get_typestore(Stores.ROS2_HUMBLE)
STRING, IMAGE = 'std_msgs/msg/String', 'sensor_msgs/msg/CompressedImage'
T = 1_760_000_000_000_000_000
MS = 1_000_000

MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def noise(number):
    """What the picture of this number holds: 4 kB that no compression makes smaller."""
    return np.random.default_rng(number).integers(0, 256, 4000, dtype=np.uint8)


def image(number):
    stamp = STORE.types['builtin_interfaces/msg/Time'](sec=number, nanosec=0)
    header = STORE.types['std_msgs/msg/Header'](stamp=stamp, frame_id='')
    return STORE.types[IMAGE](header=header, format='jpeg', data=noise(number))


def write(path, count=20, storage=MCAP, mode=CompressionMode.NONE, first=0, corrupt=()):
    """A bag of `count` pictures and texts, 10 ms apart; `corrupt` pictures are rubbish."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        texts = writer.add_connection('/text', STRING, typestore=STORE)
        pictures = writer.add_connection('/image', IMAGE, typestore=STORE)
        for number in range(first, first + count):
            time = T + number * 10 * MS
            data = STORE.serialize_cdr(image(number), IMAGE)
            if number in corrupt:
                data = data[: len(data) // 2]
            writer.write(pictures, time, data)
            text = STORE.types[STRING](data=f'number {number}')
            writer.write(texts, time + MS, STORE.serialize_cdr(text, STRING))
    return path


def contents(bag):
    """What was read, checked against what `write` wrote: numbers by topic."""
    numbers = {'/text': [], '/image': []}
    times = []
    for recorded in bag.messages():
        number = round((recorded.time - T) / (10 * MS))
        if recorded.topic == '/text':
            assert recorded.message.data == f'number {number}'
        else:
            assert np.array_equal(recorded.message.data, noise(number))
        numbers[recorded.topic].append(number)
        times.append(recorded.time)
    assert times == sorted(times)
    return numbers


FORMS = [(MCAP, mode) for mode in CompressionMode] + [
    (SQLITE, CompressionMode.NONE), (SQLITE, CompressionMode.FILE),
    (SQLITE, CompressionMode.MESSAGE),
]


@pytest.mark.parametrize(('storage', 'mode'), FORMS, ids=lambda form: form.name.lower())
@pytest.mark.parametrize('metadata', [True, False], ids=['metadata', 'no metadata'])
def test_every_storage_and_compression_gives_the_same_messages(tmp_path, storage, mode, metadata):
    path = write(tmp_path / 'bag', storage=storage, mode=mode)
    if not metadata:
        (path / 'metadata.yaml').unlink()
    with Bag(path) as bag:
        assert bag.topics['/image'].type == IMAGE and bag.topics['/image'].count == 20
        assert contents(bag) == {'/text': list(range(20)), '/image': list(range(20))}
        assert bag.health.whole == metadata
        assert metadata or 'no metadata.yaml' in str(bag.health)
        assert bag.health.read == {'/text': 20, '/image': 20}


@pytest.mark.parametrize('storage', [MCAP, SQLITE], ids=['mcap', 'sqlite3'])
def test_a_single_file_is_a_bag_too(tmp_path, storage):
    path = write(tmp_path / 'bag', storage=storage)
    (file,) = (file for file in path.iterdir() if file.suffix in ('.mcap', '.db3'))
    with Bag(file) as bag:
        assert bag.name == 'bag'
        assert len(contents(bag)['/image']) == 20
        assert bag.health.whole


def split(tmp_path, parts=12):
    """A bag of several files, as rosbag2 splits by size; names sort wrongly as text."""
    whole = tmp_path / 'whole'
    whole.mkdir()
    for part in range(parts):
        piece = write(tmp_path / f'piece{part}', 2, first=2 * part)
        shutil.move(piece / f'piece{part}.mcap', whole / f'whole_{part}.mcap')
    return whole


def test_a_split_bag_without_metadata_is_read_in_the_order_of_its_numbers(tmp_path):
    with Bag(split(tmp_path)) as bag:
        assert contents(bag)['/image'] == list(range(24))


def test_a_missing_part_is_named_and_the_rest_is_read(tmp_path):
    whole = split(tmp_path, 3)
    names = '\n'.join(f'  - whole_{part}.mcap' for part in range(3))
    (whole / 'metadata.yaml').write_text(f"""\
rosbag2_bagfile_information:
  relative_file_paths:
{names}
  topics_with_message_count:
  - topic_metadata: {{name: /image}}
    message_count: 6
""")
    with Bag(whole) as bag:
        assert contents(bag)['/image'] == list(range(6)) and bag.health.whole
    (whole / 'whole_1.mcap').unlink()
    with Bag(whole) as bag:
        assert contents(bag)['/image'] == [0, 1, 4, 5]
        assert 'whole_1.mcap: listed in metadata.yaml, but not there' in str(bag.health)
        assert 'lists 6 messages of /image, the files hold 4' in str(bag.health)


@pytest.mark.parametrize('text', ['', 'a: [', '- 1', 'rosbag2_bagfile_information: {version: 9}'])
def test_damaged_metadata_does_not_keep_the_messages_back(tmp_path, text):
    path = write(tmp_path / 'bag')
    (path / 'metadata.yaml').write_text(text)
    with Bag(path) as bag:
        assert len(contents(bag)['/text']) == 20
        assert 'damaged one' in str(bag.health)


@pytest.mark.parametrize('mode', [CompressionMode.NONE, CompressionMode.STORAGE],
                         ids=['plain', 'zstd chunks'])
@pytest.mark.parametrize('part', [0.35, 0.6, 0.9, 0.999])
def test_a_cut_off_mcap_is_read_as_far_as_it_goes(tmp_path, mode, part):
    path = write(tmp_path / 'bag', 120, mode=mode)
    file = path / 'bag.mcap'
    size = int(file.stat().st_size * part)
    file.write_bytes(file.read_bytes()[:size])
    with Bag(path) as bag:
        numbers = contents(bag)
        assert numbers['/image'] == list(range(len(numbers['/image'])))
        # Nothing is lost but what the missing bytes held: a message has some 4 kB.
        # zstd gives its blocks of 128 kB whole or not at all.
        held = min(120, size / 4200 - (32 if mode == CompressionMode.STORAGE else 2))
        assert len(numbers['/image']) >= held
        assert not bag.health.whole
        assert bag.topics['/image'].count == len(numbers['/image'])


@pytest.mark.parametrize('part', [0.35, 0.6, 0.9])
def test_a_cut_off_file_compression_is_read_as_far_as_it_goes(tmp_path, part):
    path = write(tmp_path / 'bag', 120, mode=CompressionMode.FILE)
    (file,) = path.glob('*.zstd')
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    with Bag(path) as bag:
        numbers = contents(bag)['/image']
        assert len(numbers) >= 120 * part - 35 and numbers == list(range(len(numbers)))
        assert 'the zstd data is cut off' in str(bag.health)


@pytest.mark.parametrize('part', [0.4, 0.8, 0.99])
def test_a_cut_off_sqlite_is_read_as_far_as_it_goes(tmp_path, part):
    path = write(tmp_path / 'bag', 60, storage=SQLITE)
    file = path / 'bag.db3'
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    with Bag(path) as bag:
        numbers = contents(bag)['/image']
        assert len(numbers) >= 60 * part - 25
        assert not bag.health.whole


def test_what_sqlite_had_not_yet_written_back_is_read_from_its_journal(tmp_path):
    # rosbag2 records in WAL mode: a killed recorder leaves the last seconds beside the file.
    path = write(tmp_path / 'bag', 4, storage=SQLITE)
    killed = tmp_path / 'killed'
    killed.mkdir()
    base = sqlite3.connect(path / 'bag.db3')
    base.execute('PRAGMA journal_mode=WAL')
    base.execute('PRAGMA wal_autocheckpoint=0')
    data = STORE.serialize_cdr(STORE.types[STRING](data='number 4'), STRING)
    topic = base.execute("SELECT id FROM topics WHERE name = '/text'").fetchone()[0]
    base.execute('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)',
                 (topic, T + 41 * MS, bytes(data)))
    base.commit()
    for file in path.iterdir():
        shutil.copy(file, killed)  # as the kill left it: the base is still open
    base.close()
    (killed / 'metadata.yaml').unlink()
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    with Bag(killed) as bag:
        assert contents(bag)['/text'] == [0, 1, 2, 3, 4]
        assert 'recording was killed' in str(bag.health)
    assert {file.name: file.read_bytes() for file in killed.iterdir()} == before


def test_a_chunk_with_a_wrong_checksum_is_left_out_and_the_rest_is_read(tmp_path):
    path = write(tmp_path / 'bag', 600)  # 2.5 MB: three chunks
    file = path / 'bag.mcap'
    data = bytearray(file.read_bytes())
    position, chunks = 8, []
    while data[position] != 0x0F:
        length = int.from_bytes(data[position + 1 : position + 9], 'little')
        if data[position] == 0x06:
            chunks.append(position + 9)
        position += 9 + length
    assert len(chunks) == 3
    for number, start in enumerate(chunks):
        size = int.from_bytes(data[start + 16 : start + 24], 'little')
        checksum = crc32(data[start + 40 : start + 40 + size]) ^ (number == 1)
        data[start + 24 : start + 28] = checksum.to_bytes(4, 'little')
    file.write_bytes(data)
    with Bag(path) as bag:
        numbers = contents(bag)['/image']
        assert numbers[0] == 0 and numbers[-1] == 599
        assert 300 < len(numbers) < 500
        assert 'damaged after time' in str(bag.health)


def test_messages_that_do_not_fit_their_type_are_counted_by_topic(tmp_path, caplog):
    path = write(tmp_path / 'bag', corrupt={3, 7})
    with Bag(path) as bag:
        for _ in range(2):  # a second pass does not count them twice
            assert contents(bag)['/image'] == [n for n in range(20) if n not in (3, 7)]
        assert bag.health.undecodable == {('/image', Undecodable.DAMAGED): 2}
        assert bag.health.read == {'/image': 18, '/text': 20}
    assert '2 messages of /image cannot be read' in caplog.text


def test_damaged_message_compression_is_counted_as_such(tmp_path):
    path = write(tmp_path / 'bag', storage=SQLITE, mode=CompressionMode.MESSAGE)
    base = sqlite3.connect(path / 'bag.db3')
    rows = base.execute('SELECT id, data FROM messages ORDER BY id LIMIT 3').fetchall()
    for row, data in rows[::2]:
        base.execute('UPDATE messages SET data = ? WHERE id = ?', (data[: len(data) // 2], row))
    base.commit()
    base.close()
    with Bag(path) as bag:
        assert len(contents(bag)['/image']) == 18
        assert bag.health.undecodable == {('/image', Undecodable.COMPRESSION): 2}


def test_the_bags_own_definitions_are_used(tmp_path):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg('float32 volts\nstd_msgs/String label', 'mine/msg/Cell'))
    store.register(get_types_from_msg('string data', STRING))
    kind = store.types['mine/msg/Cell']
    message = kind(volts=3.5, label=store.types[STRING](data='front'))
    with Writer(tmp_path / 'bag', version=9, storage_plugin=MCAP) as writer:
        topic = writer.add_connection('/cell', 'mine/msg/Cell', typestore=store)
        writer.write(topic, T, store.serialize_cdr(message, 'mine/msg/Cell'))
    with Bag(tmp_path / 'bag') as bag:
        (recorded,) = bag.messages()
        assert (recorded.message.volts, recorded.message.label.data) == (3.5, 'front')


def test_a_type_without_any_definition_is_counted_by_name(tmp_path):
    path = write(tmp_path / 'bag', storage=SQLITE)
    base = sqlite3.connect(path / 'bag.db3')
    base.execute("UPDATE topics SET type = 'mine/msg/Secret' WHERE name = '/image'")
    base.execute('DROP TABLE message_definitions')
    base.execute('DELETE FROM schema')
    base.execute('INSERT INTO schema VALUES (3, "humble")')  # before definitions were stored
    base.commit()
    base.close()
    (path / 'metadata.yaml').unlink()
    with Bag(path) as bag:
        assert len(contents(bag)['/text']) == 20  # ROS 2's own types are known
        assert bag.health.undecodable == {('/image', Undecodable.UNKNOWN_TYPE): 20}


def test_lacking_topics_are_listed_beside_those_that_are_there(tmp_path):
    with Bag(write(tmp_path / 'bag')) as bag:
        bag.require({'/image': IMAGE})
        with pytest.raises(BagError) as caught:
            bag.require({'/imag': IMAGE, '/text': STRING, '/joints': STRING})
        assert 'messages of /imag, /joints, found' in str(caught.value)
        assert f'/image (20 of {IMAGE})' in str(caught.value)
        with pytest.raises(BagError, match=f'{STRING} on /image, found {IMAGE}'):
            bag.require({'/image': STRING})


@pytest.mark.parametrize(('name', 'content', 'expected'), [
    ('a.mcap', b'', 'an empty file'),
    ('a.mcap', b'hello, world', 'begins with 68656c6c'),
    ('a.bag', b'#ROSBAG V2.0\n', 'ROS 1 bag'),
    ('a.bin', b'\x89MCAP0\r\n', r'a name with \.mcap'),
    ('a.db3', b'SQLite format 3\0' + b'\0' * 20, 'sqlite3 bag'),
])
def test_what_is_no_bag_is_refused_with_what_it_is(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BagError, match=expected):
        Bag(path)


def test_an_absent_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(BagError, match='found nothing'):
        Bag(tmp_path / 'none')
    with pytest.raises(BagError, match='an empty folder'):
        Bag(tmp_path)


def test_an_empty_last_part_of_a_killed_recording_does_no_harm(tmp_path):
    whole = split(tmp_path, 2)
    (whole / 'whole_2.mcap').write_bytes(b'')
    with Bag(whole) as bag:
        assert contents(bag)['/image'] == [0, 1, 2, 3]
        assert 'whole_2.mcap: expected an MCAP or sqlite3 bag, found an empty file' in str(
            bag.health
        )


@pytest.mark.parametrize('seed', range(40))
def test_rubbish_in_a_file_never_brings_the_reader_down(tmp_path, seed):
    rng = np.random.default_rng(seed)
    storage = (MCAP, SQLITE)[seed % 2]
    mode = (CompressionMode.NONE, CompressionMode.STORAGE)[seed % 4 == 0]
    path = write(tmp_path / 'bag', 30, storage, mode)
    file = path / ('bag.mcap' if storage == MCAP else 'bag.db3')
    data = bytearray(file.read_bytes())
    for _ in range(rng.integers(1, 60)):
        data[rng.integers(16, len(data))] = rng.integers(0, 256)
    if seed % 3 == 0:
        data = data[: rng.integers(16, len(data))]
    file.write_bytes(data)
    try:
        with Bag(path) as bag:
            read = sum(1 for _ in bag.messages())
            assert read == sum(bag.health.read.values())
    except BagError as error:
        assert str(path) in str(error)


def test_the_hash_of_a_bag_follows_its_messages_and_not_its_place(tmp_path):
    path = write(tmp_path / 'bag')
    copy = shutil.copytree(path, tmp_path / 'elsewhere')
    assert bag_hash(path) == bag_hash(copy) == bag_hash(path / 'bag.mcap')
    assert bag_hash(write(tmp_path / 'other', 21)) != bag_hash(path)


@pytest.mark.parametrize('episode', [0, 1])
def test_the_recorded_bags_are_whole(episode):
    path = Path(__file__).resolve().parents[2] / 'shared' / 'bags' / f'gr1_pick_place_{episode}'
    if not path.exists():
        pytest.skip('no shared bags beside this checkout')
    with Bag(path) as bag:
        count = sum(1 for _ in bag.messages())
        assert bag.health.whole and count == sum(topic.count for topic in bag.topics.values())
