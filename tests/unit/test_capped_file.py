"""A file that keeps the head and the tail of what is written to it."""

import pytest

from picas.processes import capped_files
from picas.processes.capped_files import CappedFile
from picas.util import read_capped


class TestCappedFile:
    @pytest.mark.parametrize("limit", [0, 1, 2, 3, 10, 11, 64])
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 9, 10, 11, 12, 25, 64, 65, 1000])
    @pytest.mark.parametrize("step", [1, 7, 2000])
    def test_holds_the_same_as_read_capped_returns(self, tmp_path, limit, size, step):
        content = bytes(number % 251 for number in range(size))
        (tmp_path / "everything").write_bytes(content)
        file = CappedFile(tmp_path / "log", limit)
        for at in range(0, size, step):
            file.write(content[at : at + step])
        file.close()
        assert (tmp_path / "log").read_bytes() == read_capped(tmp_path / "everything", limit)
        assert (file.is_cut, file.size, file.error) == (size > limit, size, None)

    def test_leaves_no_other_file(self, tmp_path):
        file = CappedFile(tmp_path / "log", 10)
        file.write(b"x" * 100)
        assert list(tmp_path.iterdir()) == [tmp_path / "log"]
        file.close()
        assert list(tmp_path.iterdir()) == [tmp_path / "log"]

    def test_later_output_is_added_only_if_it_fits(self, tmp_path):
        file = CappedFile(tmp_path / "log", 10)
        file.write(b"12345")
        file.complete()
        file.write(b"678")
        file.write(b"too much")
        file.close()
        assert (tmp_path / "log").read_bytes() == b"12345678"
        assert not file.is_cut

    @pytest.mark.parametrize("limit", [0, 1, 10, 25, 1000])
    @pytest.mark.parametrize("step", [1, 7, 300])
    def test_its_tail_can_be_read_while_it_is_written(self, tmp_path, limit, step):
        file = CappedFile(tmp_path / "log", limit)
        content = b""
        for _ in range(0, 300, step):
            more = bytes(number % 251 for number in range(len(content), len(content) + step))
            content += more
            file.write(more)
            size, tail = file.tail(5)
            assert size == len(content)
            assert content.endswith(tail)
            assert len(tail) == min(5, size if size <= limit else limit // 2)
        file.close()
        assert file.tail(5) == (len(content), b"")

    @pytest.mark.parametrize("limit", [8, 1000])
    def test_its_tail_fits_its_size_also_in_the_middle_of_a_write(self, tmp_path, limit, monkeypatch):
        """Another thread may read it at any time."""
        file = CappedFile(tmp_path / "log", limit)
        content, tails = b"", []

        def write(descriptor, data):
            tails.append(file.tail(3))
            write_really(descriptor, data)
            tails.append(file.tail(3))

        write_really = capped_files._write
        monkeypatch.setattr(capped_files, "_write", write)
        for number in range(6):
            content += bytes([number] * (number + 1))
            file.write(content[-number - 1 :])
        file.close()
        assert len(tails) > 4
        for size, tail in tails:
            assert content[:size].endswith(tail)
